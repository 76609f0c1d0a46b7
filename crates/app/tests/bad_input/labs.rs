//! Labs: two of one name, users and containers without the rights, and a disk that fails under an attached file.

use crate::machine::{
    cluster::PLAN,
    lab::{Lab, duo, open_devices},
    own_mounts, said, tandem, wait_for,
};
use std::{
    io::Write,
    process::Command,
    time::{Duration, Instant},
};

#[test]
fn a_second_lab_of_the_name_is_refused_and_the_first_goes_on() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let plan = folder.path().join("plan.toml");
    std::fs::write(&plan, PLAN).expect("it is ours");
    let lab = Lab::new("twice");
    let up = lab.up(&plan);
    assert!(up.status.success(), "{}", said(&up));
    assert!(said(&up).contains("tandem lab down --name twice"), "{}", said(&up));
    lab.wait_well("a1");
    let again = lab.up(&plan);
    let text = said(&again);
    assert!(!again.status.success() && text.contains("a lab named `twice` is up already"), "{text}");
    assert!(text.contains("hint: end it with `tandem lab down --name twice`, or give another `--name`"), "{text}");
    lab.wait_well("a1");
    // A rehearsal has labs of its own beside it.
    let rehearsal = tandem()
        .args(["rehearse", "--scenario", "switchover"])
        .arg(duo())
        .env("TANDEM_LAB_DIR", lab.base())
        .output()
        .expect("the binary runs");
    assert!(rehearsal.status.success(), "{}", said(&rehearsal));
    lab.wait_well("a1");
    let nobody = lab.run("exec", &["x9", "true"]);
    assert!(!nobody.status.success() && said(&nobody).contains("no host `x9`"), "{}", said(&nobody));
    let down = lab.run("down", &[]);
    assert!(down.status.success(), "{}", said(&down));
    let down = lab.run("down", &[]);
    assert!(!down.status.success() && said(&down).contains("hint: `tandem lab list`"), "{}", said(&down));
}

/// The same command as a user without any rights.
fn as_nobody(command: &Command) -> Command {
    restricted(command, &["--reuid", "65534", "--regid", "65534", "--clear-groups"])
}

fn restricted(command: &Command, how: &[&str]) -> Command {
    let mut outer = Command::new("setpriv");
    outer.args(how).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        outer.env(key, value.unwrap_or_default());
    }
    outer
}

#[track_caller]
fn refuses(mut command: Command, words: &[&str]) {
    let output = command.output().expect("setpriv(1) is installed");
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for words in words {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn missing_rights_are_named_with_the_way_out() {
    own_mounts();
    let folder = tempfile::tempdir().expect("a temporary directory");
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
    let (plan, devices) = (folder.path().join("plan.toml"), folder.path().join("devices.toml"));
    std::fs::write(&plan, PLAN).expect("it is ours");
    let device = PLAN
        .replace("attach = \"nbd\"", "attach = \"device\"")
        .replace("volume = \"disk\"", "volume = \"disk\"\nfilesystem = \"ext4\"\nmount = \"/srv/disk\"");
    std::fs::write(&devices, device).expect("it is ours");
    let lab = Lab::new("rights");
    std::fs::set_permissions(lab.base(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("it is ours");
    let up = |plan: &std::path::Path| lab.command("up", &[plan.to_str().expect("the path is text")]);

    // Root in a container: the capabilities by name.
    let fewer = restricted(&up(&plan), &["--bounding-set", "-sys_admin,-net_admin"]);
    refuses(fewer, &["capability CAP_SYS_ADMIN", "capability CAP_NET_ADMIN", "hint: "]);
    let fewer = restricted(&up(&plan), &["--bounding-set", "-net_admin"]);
    refuses(fewer, &["capability CAP_NET_ADMIN", "hint: "]);
    // A user: first the devices.
    let closed = |path: &str| {
        let mode = std::fs::metadata(path).expect("it is there").permissions();
        std::os::unix::fs::PermissionsExt::mode(&mode) & 0o6 == 0
    };
    if closed("/dev/net/tun") && closed("/dev/fuse") {
        refuses(as_nobody(&up(&plan)), &["/dev/net/tun cannot be opened", "/dev/fuse cannot be opened", "setfacl"]);
    }
    // With them, loop devices are still root's alone.
    let nodes = folder.path().join("dev");
    std::fs::create_dir(&nodes).expect("it is ours");
    let _mounted = open_devices(&nodes);
    refuses(as_nobody(&up(&devices)), &["volume `disk` attaches as a device", "write attach = \"file\"", "hint: "]);
    assert!(!lab.base().join("tandem-lab-rights").exists(), "a lab that was refused leaves nothing");

    // Outside the lab: what belongs to root.
    let machine = |arguments: &[&str]| {
        let mut command = tandem();
        command
            .args(arguments)
            .env("TANDEM_DATA_DIR", "/proc/none/data")
            .env("TANDEM_RUN_DIR", folder.path().join("run"));
        command
    };
    refuses(as_nobody(&machine(&["agent"])), &["cannot make", "Permission denied", "hint: the agent needs root"]);
    std::fs::create_dir(folder.path().join("run")).expect("it is ours");
    std::fs::set_permissions(folder.path().join("run"), std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .expect("it is ours");
    refuses(as_nobody(&machine(&["status"])), &["no agent answers", "hint: only root may ask it"]);
    let plan_text = plan.to_str().expect("the path is text");
    let mut init = tandem();
    init.args(["init", "--node", "a1", "--plan", plan_text]).env("TANDEM_DATA_DIR", folder.path().join("data"));
    refuses(as_nobody(&init), &["cannot write", "Permission denied", "hint: run this as root"]);
    std::fs::set_permissions(&plan, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("it is ours");
    let mut check = tandem();
    check.args(["plan", "check", plan_text]);
    refuses(as_nobody(&check), &["plan.toml: Permission denied", "hint: let this user read it"]);
}

#[test]
fn a_failing_disk_under_an_attached_file_costs_no_record_and_little_time() {
    let lab = Lab::new("disk");
    let up = lab.up(&duo());
    assert!(up.status.success(), "{}", said(&up));
    lab.wait_well("h1");
    let mut writer = lab.writer();
    writer.more(10);
    lab.says("r1", &["volume", "inject-disk-fault", "ledger", "--errno", "5"]);
    let failed = Instant::now();
    wait_for("the service runs on h1", || {
        let status = said(&lab.run("exec", &["h1", "tandem", "status", "--json"]));
        serde_json::from_str::<serde_json::Value>(&status)
            .is_ok_and(|status| status["services"][0]["node"] == "h1" && status["services"][0]["phase"] == "running")
    });
    // What is read from here on was acknowledged before or after; thirty are more than the pipe may have held.
    writer.more(30);
    // A stop that waits for a process that waits for the volume takes the stop's whole limit: 30 s.
    assert!(failed.elapsed() < Duration::from_secs(20), "{:?}", failed.elapsed());
    let acknowledged = writer.stop();
    let why = lab.says("h1", &["explain", "ledger"]);
    assert!(why.contains("r1 cannot keep it") && why.contains("its disk failed: "), "{why}");
    // Every acknowledged record is there.
    let mut verify = lab.client(&["--verify"]).spawn().expect("the binary runs");
    let numbers: String = acknowledged.iter().map(|number| format!("{number}\n")).collect();
    verify.stdin.take().expect("it is piped").write_all(numbers.as_bytes()).expect("it reads");
    let verified = verify.wait_with_output().expect("it ends");
    let text = said(&verified);
    let answer: serde_json::Value =
        serde_json::from_str(text.lines().find(|line| line.contains("verified")).unwrap_or_default()).expect(&text);
    assert!(answer["missing"].as_array().is_some_and(Vec::is_empty), "{text}");
    lab.says("r1", &["volume", "inject-disk-fault", "ledger", "--errno", "0"]);
    lab.wait_well("r1");
}
