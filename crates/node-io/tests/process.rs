//! Service processes, with and without a cgroup. Needs root.

use std::{ffi::OsString, fs, path::Path};
use tandem_base::Duration;
use tandem_node_io::{Cgroups, Confinement, Exit, ProcessError, ProcessSpec, ServiceProcesses, Stopped};

const LONG: Duration = Duration::from_secs(30);

fn shell(directory: &Path, name: &str, script: &str) -> ProcessSpec {
    ProcessSpec::new(name, ["sh", "-c", script].map(OsString::from).into(), directory.join(format!("{name}.log")))
}

/// Waits until the service has written `file`.
async fn written(file: &Path) -> String {
    loop {
        match fs::read_to_string(file) {
            Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
            _ => tokio::time::sleep(std::time::Duration::from_millis(2)).await,
        }
    }
}

fn alive(pid: &str) -> bool {
    // A zombie without a parent that waits is as dead as can be.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn a_process_gets_its_environment_and_its_end_is_reported() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let processes = ServiceProcesses::new(directory.path().join("run"), None).expect("it is writable");
    let mut spec = shell(directory.path(), "env", "echo $GREETING from $(pwd); echo oops >&2; exit 7");
    spec.env.push(("GREETING".into(), "hello".into()));
    spec.directory = Some("/proc".into());
    let process = processes.start(&spec).await.expect("there is a shell");
    assert_eq!(process.exited().await, Exit::Code(7));
    assert_eq!(process.stop(LONG).await.expect("it is gone"), Stopped::Already);
    assert_eq!(fs::read_to_string(&spec.log).expect("it is there"), "hello from /proc\noops\n");
    assert!(processes.recorded().expect("it is readable").is_empty());
}

#[tokio::test]
async fn a_process_runs_as_its_user_with_its_groups() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let processes = ServiceProcesses::new(directory.path().join("run"), None).expect("it is writable");
    let mut spec = shell(directory.path(), "user", "echo $(id -un):$(id -gn):$(id -Gn):$HOME");
    spec.user = Some("nobody".into());
    spec.group = Some("daemon".into());
    let process = processes.start(&spec).await.expect("root may become anybody");
    assert_eq!(process.exited().await, Exit::Code(0));
    process.stop(LONG).await.expect("it is gone");
    let said = fs::read_to_string(&spec.log).expect("it is there");
    assert!(said.starts_with("nobody:daemon:daemon"), "{said}");
    assert!(!said.contains("root"), "{said}");
    spec.user = Some("no-such-user".into());
    assert!(matches!(processes.start(&spec).await, Err(ProcessError::User { .. })));
}

#[tokio::test]
async fn what_cannot_start_says_so_and_leaves_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let processes = ServiceProcesses::new(directory.path().join("run"), None).expect("it is writable");
    let absent = ProcessSpec::new("absent", vec!["/no/such/program".into()], directory.path().join("log"));
    let error = processes.start(&absent).await.expect_err("there is no such program");
    assert!(matches!(error, ProcessError::Start { .. }) && error.hint().is_some());
    let empty = ProcessSpec::new("empty", Vec::new(), directory.path().join("log"));
    assert!(matches!(processes.start(&empty).await, Err(ProcessError::NoCommand(_))));
    assert!(processes.recorded().expect("it is readable").is_empty());
    fs::write(directory.path().join("run/torn.json"), "{\"pid\":").expect("it is writable");
    assert!(matches!(processes.adopt("torn").await, Err(ProcessError::File { .. })));
}

/// A stop takes everything: what ignores SIGTERM, and what left for a session of its own.
async fn stop_takes_everything(cgroups: Option<Cgroups>) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let processes = ServiceProcesses::new(directory.path().join("run"), cgroups).expect("it is writable");
    let stray = directory.path().join("stray");
    let script = format!(
        "trap '' TERM; setsid sh -c 'trap \"\" TERM; echo $$ > {0}; exec sleep 1000' & while :; do sleep 0.1; done",
        stray.display()
    );
    let process = processes.start(&shell(directory.path(), "stubborn", &script)).await.expect("there is a shell");
    let stray = written(&stray).await;
    assert_eq!(process.stop(Duration::from_millis(100)).await.expect("SIGKILL works"), Stopped::Killed);
    assert_eq!(process.exited().await, Exit::Signal(9));
    assert!(!alive(&stray), "the stray {stray} is left");
    if let Confinement::Cgroup { path } = process.confinement() {
        assert!(!path.exists());
    }

    // The trap must stand before the signal comes.
    let up = directory.path().join("up");
    let script = format!("trap 'exit 0' TERM; echo up > {}; while :; do sleep 0.01; done", up.display());
    let polite = processes.start(&shell(directory.path(), "polite", &script)).await.expect("there is a shell");
    written(&up).await;
    assert_eq!(polite.stop(LONG).await.expect("it ends"), Stopped::Asked);
    assert_eq!(polite.exited().await, Exit::Code(0));
}

#[tokio::test]
async fn stop_takes_everything_of_a_session() {
    stop_takes_everything(None).await;
}

#[tokio::test]
async fn stop_takes_everything_of_a_cgroup() {
    let cgroups =
        Cgroups::detect(&format!("tandem-test-{}", std::process::id())).expect("cgroup v2 is writable for root");
    stop_takes_everything(Some(cgroups.clone())).await;
    cgroups.remove();
}

#[tokio::test]
async fn the_next_agent_adopts_what_runs_and_clears_what_does_not() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let run = directory.path().join("run");
    let first = ServiceProcesses::new(&run, None).expect("it is writable");
    let spec = shell(directory.path(), "svc", "exec sleep 1000");
    let started = first.start(&spec).await.expect("there is a shell");
    assert!(matches!(first.start(&spec).await, Err(ProcessError::Running { .. })));

    let next = ServiceProcesses::new(&run, None).expect("it is writable");
    assert_eq!(next.recorded().expect("it is readable"), ["svc"]);
    let adopted = next.adopt("svc").await.expect("the record is whole").expect("it runs");
    assert_eq!((adopted.pid(), adopted.confinement()), (started.pid(), started.confinement()));
    assert_eq!(adopted.exit(), None);
    assert_eq!(adopted.stop(LONG).await.expect("it ends"), Stopped::Asked);
    assert!(next.adopt("svc").await.expect("nothing is there").is_none());

    // A number that another process has now: its record is cleared, the process left alone.
    let record = run.join("svc.json");
    let own = std::process::id();
    let text = format!(
        r#"{{"pid":{own},"start_time":1,"confinement":{{"session":{{"leader":{own},"start_time":1}}}},"log":"/dev/null","log_max":1,"stop_signal":15}}"#
    );
    fs::write(&record, text).expect("it is writable");
    assert!(next.adopt("svc").await.expect("it is none of ours").is_none());
    assert!(!record.exists());
}

#[tokio::test]
async fn what_an_agent_left_without_a_record_is_cleared() {
    let name = format!("tandem-test-left-{}", std::process::id());
    let cgroups = Cgroups::detect(&name).expect("cgroup v2 is writable for root");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let run = directory.path().join("run");
    let processes = ServiceProcesses::new(&run, Some(cgroups.clone())).expect("it is writable");
    let left = processes.start(&shell(directory.path(), "svc", "exec sleep 1000")).await.expect("there is a shell");
    fs::remove_file(run.join("svc.json")).expect("it was written");
    assert!(processes.adopt("svc").await.expect("SIGKILL works").is_none());
    left.exited().await;
    assert!(!alive(&left.pid().to_string()));
    cgroups.remove();
}
