//! Real labs on this machine, with a stand-in for the agent: hosts, lines, verbs, and that nothing stays.
//!
//! Without the test harness, as the test binary is also the binary that the lab starts again (`run_hidden`).

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use tandem_base::{BitRate, Duration as Span};
use tandem_lab::{Host, HostState, Lab, LabError, OUTSIDE, Options, Quality, QualityChange, Topology, Way};

/// Gets a directory of its own.
type Test = fn(&Path);

fn main() -> ExitCode {
    if let Some(code) = tandem_lab::run_hidden() {
        return code;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["source", address, megabytes] => return source(address, megabytes),
        ["sink", address] => return sink(address),
        ["as-user", base] => return as_user(Path::new(base)),
        ["hold", base] => return hold(Path::new(base)),
        _ => {}
    }
    let tests: [(&str, Test); 10] = [
        ("hosts_reach_each_other_with_the_ways_latency", hosts_reach_each_other_with_the_ways_latency),
        ("a_way_carries_its_bandwidth", a_way_carries_its_bandwidth),
        ("a_cut_has_two_sides_and_heals", a_cut_has_two_sides_and_heals),
        ("a_killed_node_says_nothing_and_returns_with_its_disk", a_killed_node_says_nothing_and_returns_with_its_disk),
        ("a_frozen_node_does_nothing_until_it_goes_on", a_frozen_node_does_nothing_until_it_goes_on),
        ("two_labs_live_side_by_side_and_names_are_unique", two_labs_live_side_by_side_and_names_are_unique),
        ("a_crash_leaves_no_process", a_crash_leaves_no_process),
        ("a_tied_lab_ends_with_its_maker", a_tied_lab_ends_with_its_maker),
        ("a_user_without_root_has_labs", a_user_without_root_has_labs),
        ("wrong_names_and_wrong_programs_are_refused", wrong_names_and_wrong_programs_are_refused),
    ];
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let chosen = tests.iter().filter(|(name, _)| filter.is_none_or(|filter| name.contains(filter.as_str())));
    if arguments.iter().any(|argument| argument == "--list") {
        chosen.for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in chosen {
        let base = tempfile::Builder::new().prefix("lab").tempdir_in("/tmp").expect("a temporary directory");
        let started = Instant::now();
        let result = std::panic::catch_unwind(|| test(base.path()));
        let word = if result.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {word} ({:.1} s)", started.elapsed().as_secs_f64());
        if result.is_ok() { passed += 1 } else { failed += 1 }
    }
    println!(
        "\ntest result: {}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out",
        if failed == 0 { "ok" } else { "FAILED" }
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn me() -> PathBuf {
    std::env::current_exe().expect("this test is a file")
}

/// Two sites with a node each, a witness elsewhere, and the outside.
fn topology() -> Topology {
    let host = |name: &str, place: &str, address: [u8; 4]| Host {
        name: name.into(),
        place: place.into(),
        addresses: vec![IpAddr::V4(Ipv4Addr::from(address))],
        agent: true,
    };
    let mut topology = Topology::new(
        "test".into(),
        vec![host("a1", "left", [10, 1, 0, 1]), host("b1", "right", [10, 2, 0, 1]), host("w1", "w1", [10, 3, 0, 1])],
    );
    topology.links.insert("between".into(), ["left".into(), "right".into()]);
    let quality = Quality {
        latency: Span::from_millis(10),
        bandwidth: Some(BitRate::from_bits_per_second(100_000_000)),
        ..Quality::LOCAL
    };
    for (from, to) in [("left", "right"), ("right", "left")] {
        topology.ways.push(Way { from: from.into(), to: to.into(), quality: quality.clone() });
    }
    topology
}

fn options(base: &Path, name: &str) -> Options {
    let mut options = Options::new(name, me());
    options.base = base.into();
    options.instead_of_agent = Some(["sleep", "1000"].map(Into::into).to_vec());
    options
}

fn up(base: &Path, name: &str) -> Lab {
    let plan = base.join("plan.toml");
    std::fs::write(&plan, "# a plan").expect("written");
    let mut options = options(base, name);
    options.tied = true;
    Lab::up(&topology(), &plan, &options, &mut |_| {}).unwrap_or_else(|error| panic!("{}", explain(&error)))
}

fn explain(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", explain(cause))).unwrap_or_default();
    format!("{error}{cause}")
}

/// Runs a shell command in a host: whether it succeeded, and what it printed.
fn sh(lab: &Lab, host: &str, script: &str) -> (bool, String) {
    let output = lab.command(host, ["sh", "-c", script]).output().expect("the binary runs");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The round trip from `host` to `address` in milliseconds; none without an answer.
fn ping(lab: &Lab, host: &str, address: &str) -> Option<f64> {
    // The first one pays for ARP too.
    let (_, text) = sh(lab, host, &format!("ping -n -c 3 -i 0.05 -W 1 {address}"));
    text.lines().filter_map(|line| line.split("time=").nth(1)?.split(' ').next()?.parse().ok()).reduce(f64::min)
}

fn hosts_reach_each_other_with_the_ways_latency(base: &Path) {
    let lab = up(base, "t");
    // The upper bounds leave room for a machine that does much else; what is too fast is always wrong.
    let far = ping(&lab, "a1", "10.2.0.1").expect("the other site answers");
    assert!((20.0..40.0).contains(&far), "10 ms each way make 20 ms, not {far}");
    let default = ping(&lab, OUTSIDE, "10.1.0.1").expect("a site answers the outside");
    assert!((2.0..15.0).contains(&default), "1 ms each way make 2 ms, not {default}");
    println!("  round trip over 2 x 10 ms: {far} ms, over 2 x 1 ms: {default} ms");
    // A service address: added anywhere, reached from everywhere by ARP alone.
    let (added, _) = sh(&lab, "b1", "ip address add 10.9.0.10/24 dev eth0");
    assert!(added);
    assert!(ping(&lab, OUTSIDE, "10.9.0.10").is_some());
    let faster = QualityChange { latency: Some(Span::ZERO), ..QualityChange::default() };
    lab.slow("a1", "right", &faster).expect("changed");
    let near = ping(&lab, "a1", "10.2.0.1").expect("the other site answers");
    assert!(near < 15.0, "no latency is left, but {near} ms");
    println!("  round trip without latency: {near} ms");
    // Each host sees its own world.
    assert_eq!(sh(&lab, "a1", "hostname; cat /etc/tandem/plan.toml").1, "a1\n# a plan");
    let (numbers, machine) =
        (sh(&lab, "a1", "ls -d /proc/[0-9]*").1, std::fs::read_dir("/proc").expect("there").count());
    assert!(numbers.lines().count() < 10 && machine > 20, "its own processes: {numbers}");
    assert!(sh(&lab, "a1", "touch /var/lib/tandem/mine /run/tandem/mine /srv/mine").0);
    assert!(!Path::new("/srv/mine").exists() && !Path::new("/run/tandem/mine").exists());
    assert_eq!(sh(&lab, "b1", "ls /run/tandem").1, "");
    assert_eq!(sh(&lab, "b1", "ls /var/lib/tandem").1, "");
    lab.down().expect("ended");
    assert!(!base.join("tandem-lab-t").exists());
}

/// Reads until the other side ends and prints bits per second.
fn sink(address: &str) -> ExitCode {
    let listener = TcpListener::bind(address).expect("listens");
    println!("listening");
    let (mut stream, _) = listener.accept().expect("accepts");
    let (started, mut total) = (Instant::now(), 0u64);
    let mut room = vec![0; 1 << 18];
    while let Ok(length @ 1..) = stream.read(&mut room) {
        total += length as u64;
    }
    println!("{}", (total as f64 * 8.0 / started.elapsed().as_secs_f64()) as u64);
    ExitCode::SUCCESS
}

fn source(address: &str, megabytes: &str) -> ExitCode {
    let mut stream = TcpStream::connect(address).expect("connects");
    let data = vec![7; 1 << 20];
    for _ in 0..megabytes.parse::<u32>().expect("a number") {
        stream.write_all(&data).expect("sent");
    }
    ExitCode::SUCCESS
}

/// Bits per second from a1 to b1, by TCP.
fn throughput(lab: &Lab, megabytes: u32, port: u16) -> u64 {
    let me = me();
    let me = me.to_str().expect("a UTF-8 path");
    let address = format!("10.2.0.1:{port}");
    let mut sink = lab.command("b1", [me, "sink", &address]).stdout(Stdio::piped()).spawn().expect("starts");
    let mut said = sink.stdout.take().expect("asked for");
    let mut first = [0; 10];
    said.read_exact(&mut first).expect("it listens");
    let sent = lab.command("a1", [me, "source", &address, &megabytes.to_string()]).status().expect("runs");
    assert!(sent.success());
    let mut rate = String::new();
    said.read_to_string(&mut rate).expect("text");
    assert!(sink.wait().expect("ends").success());
    rate.trim().parse().expect("a number")
}

fn a_way_carries_its_bandwidth(base: &Path) {
    let lab = up(base, "t");
    let shaped = throughput(&lab, 24, 5001);
    println!("  TCP over 100 Mbit/s, 2 x 10 ms: {} Mbit/s", shaped / 1_000_000);
    assert!((50_000_000..=97_000_000).contains(&shaped), "{shaped}");
    let change = QualityChange {
        latency: Some(Span::ZERO),
        bandwidth: Some(BitRate::from_bits_per_second(1_000_000_000_000)),
        ..QualityChange::default()
    };
    lab.slow("left", "right", &change).expect("changed");
    let bare = throughput(&lab, 512, 5002);
    println!("  TCP without limits: {} Mbit/s", bare / 1_000_000);
    assert!(bare > 150_000_000, "{bare}");
}

fn a_cut_has_two_sides_and_heals(base: &Path) {
    let lab = up(base, "t");
    assert!(ping(&lab, "a1", "10.2.0.1").is_some());
    lab.cut("between", None, false).expect("a link's name");
    assert!(ping(&lab, "a1", "10.2.0.1").is_none());
    assert!(ping(&lab, "a1", "10.3.0.1").is_some(), "the witness is on another way");
    assert_eq!(lab.status().expect("up").cuts.len(), 2);
    lab.heal(Some("left"), Some("b1")).expect("healed");
    assert!(ping(&lab, "a1", "10.2.0.1").is_some());
    lab.cut("w1", None, false).expect("a node's name");
    assert!(ping(&lab, "a1", "10.3.0.1").is_none() && ping(&lab, "b1", "10.3.0.1").is_none());
    lab.heal(None, None).expect("healed");
    assert!(ping(&lab, "a1", "10.3.0.1").is_some());
    // One way: what a1 sends arrives, what b1 sends does not.
    lab.cut("b1", Some("a1"), true).expect("cut");
    let before = sh(&lab, "b1", "cat /sys/class/net/eth0/statistics/rx_packets").1;
    assert!(ping(&lab, "a1", "10.2.0.1").is_none());
    let after = sh(&lab, "b1", "cat /sys/class/net/eth0/statistics/rx_packets").1;
    assert!(before.parse::<u64>().expect("a number") < after.parse().expect("a number"), "{before} then {after}");
}

fn a_killed_node_says_nothing_and_returns_with_its_disk(base: &Path) {
    let lab = up(base, "t");
    assert!(sh(&lab, "b1", "echo kept > /var/lib/tandem/file").0);
    // A connection that the dead node does not end.
    let me = me();
    let me = me.to_str().expect("a UTF-8 path");
    let mut sink = lab.command("b1", [me, "sink", "10.2.0.1:5003"]).stdout(Stdio::piped()).spawn().expect("starts");
    sink.stdout.as_mut().expect("asked for").read_exact(&mut [0; 10]).expect("it listens");
    let mut open = lab
        .command("a1", ["bash", "-c", "exec 9<>/dev/tcp/10.2.0.1/5003; echo open; read -t 3 -u 9; echo $?"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut said = open.stdout.take().expect("asked for");
    said.read_exact(&mut [0; 5]).expect("connected");
    lab.kill("b1").expect("killed");
    assert_eq!(lab.status().expect("up").hosts[1].state, HostState::Down);
    let mut code = String::new();
    said.read_to_string(&mut code).expect("text");
    assert!(code.trim().parse::<i32>().expect("a number") > 128, "a time-out, not an end: {code}");
    let _ = (open.wait(), sink.wait());
    assert!(ping(&lab, "a1", "10.2.0.1").is_none());
    assert!(!lab.command("b1", ["true"]).stderr(Stdio::null()).status().expect("runs").success());
    lab.kill("b1").expect("a dead node can be killed again");
    lab.start("b1").expect("started");
    assert!(matches!(lab.start("b1"), Err(LabError::Refused(_))));
    assert_eq!(sh(&lab, "b1", "cat /var/lib/tandem/file").1, "kept");
    assert!(ping(&lab, "a1", "10.2.0.1").is_some());
    wait_for(|| sh(&lab, "b1", "pgrep -x sleep").0, "the agent runs again");
    // A program that is kept is started again.
    assert!(sh(&lab, "b1", "pkill -x sleep").0);
    wait_for(|| sh(&lab, "b1", "pgrep -x sleep").0, "the agent was started again");
}

fn wait_for(mut is: impl FnMut() -> bool, what: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn a_frozen_node_does_nothing_until_it_goes_on(base: &Path) {
    let lab = up(base, "t");
    let counter = "i=0; while :; do i=$((i+1)); echo $i > /var/lib/tandem/count; sleep 0.01; done";
    let mut counting = lab.command("a1", ["sh", "-c", counter]).spawn().expect("starts");
    let file = base.join("tandem-lab-t/n/a1/var/count");
    let count = || std::fs::read_to_string(&file).unwrap_or_default();
    wait_for(|| !count().is_empty(), "it counts");
    lab.freeze("a1").expect("frozen");
    assert_eq!(lab.status().expect("up").hosts[0].state, HostState::Frozen);
    let first = lab.status().expect("up").hosts[0].pid.expect("it lives");
    for pid in in_namespace_of(first) {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = status.rsplit(") ").next().and_then(|rest| rest.chars().next());
        assert!(matches!(state, Some('T' | 'Z')), "process {pid} of a frozen node: {status}");
    }
    let before = count();
    assert!(ping(&lab, "b1", "10.1.0.1").is_some(), "its kernel goes on");
    assert_eq!(count(), before);
    lab.resume("a1").expect("resumed");
    wait_for(|| count() != before && !count().is_empty(), "it counts again");
    lab.freeze("a1").expect("frozen");
    lab.kill("a1").expect("a frozen node can be killed");
    let _ = counting.wait();
}

fn in_namespace_of(first: i32) -> BTreeSet<i32> {
    let of = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let Some(wanted) = of(first) else { return BTreeSet::new() };
    let entries = std::fs::read_dir("/proc").expect("there").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| of(*pid).as_ref() == Some(&wanted)).collect()
}

fn two_labs_live_side_by_side_and_names_are_unique(base: &Path) {
    let (one, two) = (up(base, "one"), up(base, "two"));
    let plan = base.join("plan.toml");
    let again = Lab::up(&topology(), &plan, &options(base, "one"), &mut |_| {});
    assert!(matches!(again, Err(LabError::Exists(name)) if name == "one"));
    one.kill("b1").expect("killed");
    assert!(ping(&one, "a1", "10.2.0.1").is_none());
    assert!(ping(&two, "a1", "10.2.0.1").is_some());
    assert!(two.status().expect("up").hosts.iter().all(|host| host.state == HostState::Up));
    let names: Vec<_> = tandem_lab::list(base).expect("listed").into_iter().map(|lab| (lab.name, lab.up)).collect();
    assert_eq!(names, [("one".to_owned(), true), ("two".to_owned(), true)]);
    one.down().expect("ended");
    assert!(ping(&two, "a1", "10.2.0.1").is_some());
    assert!(matches!(Lab::open(base, "one"), Err(LabError::Absent(_))));
    Lab::open(base, "two").expect("it is up").down().expect("ended by another handle");
    drop(two);
    assert!(tandem_lab::list(base).expect("listed").is_empty());
}

/// Builds a lab that is not tied, for another process to crash.
fn hold(base: &Path) -> ExitCode {
    let lab = up(base, "held");
    println!("up");
    let _ = std::io::stdin().read(&mut [0]);
    drop(lab);
    ExitCode::SUCCESS
}

fn a_crash_leaves_no_process(base: &Path) {
    let plan = base.join("plan.toml");
    std::fs::write(&plan, "# a plan").expect("written");
    let lab = Lab::up(&topology(), &plan, &options(base, "t"), &mut |_| {}).expect("up");
    let firsts: Vec<i32> = lab.status().expect("up").hosts.iter().filter_map(|host| host.pid).collect();
    assert_eq!(firsts.len(), 4);
    let processes: BTreeSet<i32> = firsts.iter().flat_map(|first| in_namespace_of(*first)).collect();
    assert!(processes.len() >= 7, "an init each and three agents: {processes:?}");
    let before = own_mounts();
    kill(supervisor_of(firsts[0]));
    wait_for(|| processes.iter().all(|pid| !alive(*pid)), "every process ended");
    assert!(matches!(lab.status(), Err(LabError::Absent(_))));
    assert_eq!(own_mounts(), before);
    // Its lock goes with its last thread.
    wait_for(|| matches!(Lab::open(base, "t"), Err(LabError::Absent(_))), "the lock is free");
    assert!(!tandem_lab::list(base).expect("listed")[0].up);
    // The next one of this name starts afresh; `clear` removes what the crash left.
    let next = Lab::up(&topology(), &plan, &options(base, "t"), &mut |_| {}).expect("up again");
    assert!(matches!(Lab::clear(base, "t"), Err(LabError::Exists(_))));
    kill(supervisor_of(next.status().expect("up").hosts[0].pid.expect("it lives")));
    wait_for(|| Lab::clear(base, "t").is_ok(), "cleared");
    assert!(!base.join("tandem-lab-t").exists());
}

fn own_mounts() -> String {
    std::fs::read_to_string("/proc/self/mounts").expect("there")
}

fn supervisor_of(first: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{first}/status")).expect("it lives");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("every process has one");
    parent.trim().parse().expect("a number")
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
}

fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

fn a_tied_lab_ends_with_its_maker(base: &Path) {
    let mut maker = Command::new(me())
        .args([Path::new("hold"), base])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    maker.stdout.as_mut().expect("asked for").read_exact(&mut [0; 3]).expect("it is up");
    let lab = Lab::open(base, "held").expect("it is up");
    let firsts: Vec<i32> = lab.status().expect("up").hosts.iter().filter_map(|host| host.pid).collect();
    maker.kill().expect("killed");
    maker.wait().expect("ended");
    wait_for(|| firsts.iter().all(|pid| !alive(*pid)), "the hosts ended");
    wait_for(|| !base.join("tandem-lab-held").exists(), "it cleared itself away");
}

fn a_user_without_root_has_labs(base: &Path) {
    if !rustix::process::geteuid().is_root() {
        return; // Then every other test has shown it.
    }
    // In mounts of its own, where the devices are everybody's, as udev makes them.
    let inside = base.join("u");
    std::fs::create_dir(&inside).expect("made");
    for path in [base, &inside] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("ours");
    }
    // A user may not reach the build directory.
    let binary = base.join("binary");
    std::fs::copy(me(), &binary).expect("copied");
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).expect("ours");
    let dev = base.join("dev");
    std::fs::create_dir(&dev).expect("made");
    let script = format!(
        "set -e; mount -t tmpfs none {dev}; mknod -m 666 {dev}/tun c 10 200; mknod -m 666 {dev}/fuse c 10 229;
         mount --bind {dev}/tun /dev/net/tun; mount --bind {dev}/fuse /dev/fuse;
         exec setpriv --reuid 1000 --regid 1000 --clear-groups {binary} as-user {inside}",
        dev = dev.display(),
        binary = binary.display(),
        inside = inside.display()
    );
    let status = Command::new("unshare").args(["--mount", "sh", "-c", &script]).status().expect("runs");
    assert!(status.success());
}

/// What another user does: build, use and end a lab.
fn as_user(base: &Path) -> ExitCode {
    hosts_reach_each_other_with_the_ways_latency(base);
    a_cut_has_two_sides_and_heals(base);
    a_killed_node_says_nothing_and_returns_with_its_disk(base);
    a_frozen_node_does_nothing_until_it_goes_on(base);
    ExitCode::SUCCESS
}

fn wrong_names_and_wrong_programs_are_refused(base: &Path) {
    let lab = up(base, "t");
    for wrong in
        [lab.kill("nobody"), lab.cut("left", Some("mars"), false), lab.slow("left", "mars", &QualityChange::default())]
    {
        let Err(LabError::Refused(why)) = wrong else { panic!("{wrong:?}") };
        assert!(why.contains("left") || why.contains("a1"), "{why}");
    }
    let status = lab.command("a1", ["/no/such/program"]).stderr(Stdio::null()).status().expect("runs");
    assert!(!status.success());
    assert_eq!(lab.command("a1", ["sh", "-c", "exit 7"]).status().expect("runs").code(), Some(7));
    let plan = base.join("plan.toml");
    let missing = Lab::up(&topology(), &base.join("no.toml"), &options(base, "x"), &mut |_| {});
    assert!(matches!(missing, Err(LabError::System { .. })), "{missing:?}");
    // What runs instead of the lab's own process is no Tandem.
    let mut options = options(base, "y");
    options.binary = "/bin/false".into();
    assert!(matches!(Lab::up(&topology(), &plan, &options, &mut |_| {}), Err(LabError::Supervisor(_))));
    let closed = std::fs::metadata("/dev/net/tun").expect("there").permissions().mode() & 0o6 == 0;
    if rustix::process::geteuid().is_root() && closed {
        let inside = base.join("u");
        std::fs::create_dir(&inside).expect("made");
        for path in [base, &inside] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("ours");
        }
        let binary = base.join("binary");
        std::fs::copy(me(), &binary).expect("copied");
        let mut command = Command::new(&binary);
        command.args([Path::new("hold"), &inside]).stdin(Stdio::null()).stderr(Stdio::piped()).uid(1000).gid(1000);
        let output = command.output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("/dev/net/tun"), "{said}");
    }
}
