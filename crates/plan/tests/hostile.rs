//! Whatever the text, reading ends with a plan or with diagnostics that can be printed; it never panics.

use proptest::prelude::*;
use tandem_plan::{Code, FILE_BYTES_MAX, SourceFile, Style, parse, render, render_in, to_json};

const DUO: &str = include_str!("../../../examples/duo/plan.toml");
const POSTGRES: &str = include_str!("../../../examples/postgres/plan.toml");

/// Reads and prints in every way; a plan that is accepted must read again as itself.
fn survive(texts: &[&str]) {
    let file = |(index, text): (usize, &&str)| SourceFile { name: format!("{index}.toml"), text: (*text).to_owned() };
    let files: Vec<SourceFile> = texts.iter().enumerate().map(file).collect();
    let result = parse(&files);
    let found = match &result {
        Ok((_, warnings)) => warnings,
        Err(errors) => errors,
    };
    assert!(result.is_ok() || !found.is_empty(), "refused without a reason");
    let printed = render(&files, found);
    assert!(printed.chars().all(|c| !c.is_control() || c == '\n'), "{printed:?}");
    assert!(render_in(&files, found, Style::Terminal).len() >= printed.len());
    assert_eq!(to_json(&files, found).as_array().map(Vec::len), Some(found.len()));
    if let Ok((plan, _)) = result {
        let shown = [SourceFile { name: "shown".to_owned(), text: plan.show() }];
        match parse(&shown) {
            Ok((again, _)) => assert_eq!(again, plan),
            Err(wrong) => panic!("{}\n{}", plan.show(), render(&shown, &wrong)),
        }
        for service in plan.services.values() {
            assert!(!plan.candidates(service).is_empty());
            assert!(plan.group_of(service).is_none_or(|group| plan.groups().contains_key(&group)));
        }
        for a in plan.places() {
            for b in plan.places() {
                assert_eq!(plan.line(&a, &b).latency, plan.line(&b, &a).latency);
            }
        }
    }
}

/// Values that a plan has somewhere, to be put where they do not belong.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "\"\"",
            "0",
            "-1",
            "1e400",
            "true",
            "[]",
            "{}",
            "[[]]",
            "{ a = 1 }",
            "1979-05-27",
            "\"outside\"",
            "\"r1\"",
            "\"ledger\"",
            "\"rouans\"",
            "\"64 MiB\"",
            "\"8 EiB\"",
            "\"18446744073709551615 B\"",
            "\"584 d\"",
            "\"18446744073709551615 ns\"",
            "\"0 s\"",
            "\"100 %\"",
            "\"10.9.0.10/33\"",
            "\"fd00::1/64\"",
            "\"::/0\"",
            "\"{file}\"",
            "\"{\"",
            "[\"r1\", \"w1\"]",
            "[\"r1\"]",
            "\"\\u0000\"",
            "\"\\u001b[2J\"",
            "\"\u{e9}\u{1f980}\"",
        ])
        .prop_map(str::to_owned),
        "\"[ -~]{0,20}\"",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage(text in "\\PC{0,200}", other in ".{0,80}") {
        survive(&[&text, &other]);
    }

    #[test]
    fn garbage_of_the_right_letters(text in "[a-z0-9 =\\[\\]{}\",.\n_-]{0,300}") {
        survive(&[&text]);
    }

    /// One value of a good plan becomes another.
    #[test]
    fn a_value_in_the_wrong_place(postgres: bool, at in 0usize..60, new in value()) {
        let text = if postgres { POSTGRES } else { DUO };
        let equals: Vec<usize> = text.match_indices("= ").map(|(at, _)| at + 2).collect();
        let from = equals[at % equals.len()];
        let rest = &text[from..];
        let quoted = rest.strip_prefix('"').and_then(|rest| rest.find('"')).map(|end| end + 2);
        let length = quoted.or_else(|| rest.find([',', '\n', '}'])).unwrap_or(rest.len());
        survive(&[&format!("{}{new}{}", &text[..from], &text[from + length..])]);
    }

    /// A piece of a good plan is gone, doubled or moved.
    #[test]
    fn a_plan_in_pieces(from in 0usize..DUO.len(), length in 0usize..200, to in 0usize..DUO.len()) {
        prop_assume!(DUO.is_ascii());
        let end = (from + length).min(DUO.len());
        let piece = &DUO[from..end];
        let cut = format!("{}{}", &DUO[..from], &DUO[end..]);
        survive(&[&cut]);
        survive(&[&cut, piece]);
        survive(&[&format!("{}{piece}{}", &DUO[..to], &DUO[to..])]);
    }

    /// Lines in another order, over two files.
    #[test]
    fn lines_are_lost(keep in prop::collection::vec(any::<(bool, bool)>(), 48)) {
        let mut texts = [String::new(), String::new()];
        for (line, (kept, second)) in DUO.lines().zip(keep) {
            if kept {
                texts[usize::from(second)].push_str(line);
                texts[usize::from(second)].push('\n');
            }
        }
        survive(&[&texts[0], &texts[1]]);
    }
}

#[test]
fn a_file_has_a_limit() {
    let text = "#".repeat(FILE_BYTES_MAX + 1);
    let wrong = parse(&[SourceFile { name: "large.toml".into(), text }]).expect_err("it is too large");
    assert_eq!(wrong.iter().map(|diagnostic| diagnostic.code).collect::<Vec<_>>(), [Code::FileTooLarge]);
}

#[test]
fn nesting_and_long_chains_do_not_exhaust_the_stack() {
    survive(&[&format!("a = {}", "[".repeat(100_000))]);
    survive(&[&format!("a = {}1{}", "{ b = ".repeat(10_000), " }".repeat(10_000))]);
    survive(&[&vec!["a"; 10_000].join(".")]);
    let chain: String = (0..5_000)
        .map(|at| format!("[service.s{at}]\nrun = {{ process = [\"x\"] }}\nafter = [\"s{}\"]\n", (at + 1) % 5_000))
        .collect();
    survive(&[&format!("{DUO}\n{chain}")]);
}

#[test]
fn no_file_at_all() {
    let wrong = parse(&[]).expect_err("there is nothing");
    assert_eq!(wrong.iter().map(|diagnostic| diagnostic.code).collect::<Vec<_>>(), [Code::Empty]);
    assert!(render(&[], &wrong).starts_with("error[T0003]: no file of a plan was given\n"));
}
