//! fio's NBD engine as the load, the same jobs for every peer.

use std::process::Command;

/// One job: name, fio's options, and which figure to compare.
pub(crate) struct Job {
    pub(crate) name: &'static str,
    pub(crate) options: &'static [&'static str],
    pub(crate) metric: &'static str,
}

/// The jobs of `cargo xtask bench volume`.
pub(crate) const JOBS: &[Job] = &[
    Job { name: "4k-randwrite-q1", options: &["--rw=randwrite", "--bs=4k", "--iodepth=1"], metric: "iops" },
    Job { name: "4k-randwrite-q32", options: &["--rw=randwrite", "--bs=4k", "--iodepth=32"], metric: "iops" },
    Job { name: "1m-seqwrite-q8", options: &["--rw=write", "--bs=1M", "--iodepth=8"], metric: "MiB/s" },
];

/// Runs `job` for `seconds` against `uri` by way of `prefix` (a command that enters a namespace, or nothing), and
/// returns its figure.
///
/// # Errors
///
/// What fio wrote when it failed.
pub(crate) fn run(prefix: &[String], job: &Job, uri: &str, seconds: u32) -> Result<f64, String> {
    let mut words: Vec<String> = prefix.to_vec();
    words.extend(
        ["fio", "--name=job", "--ioengine=nbd", "--output-format=json", "--time_based", "--ramp_time=1"]
            .map(String::from),
    );
    words.extend(job.options.iter().map(|option| (*option).into()));
    words.push(format!("--uri={uri}"));
    words.push(format!("--runtime={seconds}"));
    let output =
        Command::new(&words[0]).args(&words[1..]).output().map_err(|e| format!("cannot start {}: {e}", words[0]))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let wrong = || format!("fio on {uri} failed: {}{}", text, String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        return Err(wrong());
    }
    // fio may print warnings before the object.
    let object = text.find('{').map(|at| &text[at..]).ok_or_else(wrong)?;
    let report: serde_json::Value = serde_json::from_str(object).map_err(|_| wrong())?;
    let write = &report["jobs"][0]["write"];
    let figure =
        if job.metric == "iops" { write["iops"].as_f64() } else { write["bw_bytes"].as_f64().map(|b| b / 1_048_576.0) };
    figure.ok_or_else(wrong)
}
