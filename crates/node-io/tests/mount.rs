//! A file system on a loop device, in a mount namespace of its own. Needs root.

use rustix::{
    mount::{MountPropagationFlags, mount_change},
    thread::UnshareFlags,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use tandem_base::Duration;
use tandem_node_io::{
    FileSystem, MountError, MountSpec, Prepared, Unmounted,
    mkfs::make_if_blank,
    mount::{mount, unmount},
    mountinfo,
};

const LONG: Duration = Duration::from_secs(60);

/// A loop device, detached when dropped.
struct Loop(PathBuf);

impl Loop {
    fn of(image: &Path) -> Self {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(image).output().expect("losetup is there");
        assert!(output.status.success(), "loop devices need root: {}", String::from_utf8_lossy(&output.stderr));
        Self(String::from_utf8_lossy(&output.stdout).trim().into())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

/// Runs `test` on a thread whose mounts nobody else sees, and which end with it.
fn in_namespace(test: impl AsyncFnOnce(&Path, &Path) + Send + 'static) {
    let thread = std::thread::spawn(|| {
        // SAFETY: only the mount namespace changes, on which no memory depends.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }
            .expect("namespaces need root");
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("it is our own");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let image = directory.path().join("image");
        fs::File::create(&image).and_then(|file| file.set_len(32 << 20)).expect("there is space");
        let device = Loop::of(&image);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(test(&device.0, &directory.path().join("at")));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn spec(device: &Path, target: &Path, options: &[&str]) -> MountSpec {
    MountSpec {
        device: device.into(),
        target: target.into(),
        file_system: FileSystem::Ext4,
        options: options.iter().map(|text| (*text).into()).collect(),
        timeout: LONG,
    }
}

#[test]
fn a_blank_device_becomes_a_mount_and_is_released_whole() {
    in_namespace(async |device, target| {
        let blank = mount(&spec(device, target, &[])).await;
        assert!(matches!(blank, Err(MountError::Damaged { .. })), "{blank:?}");
        assert_eq!(make_if_blank(device, FileSystem::Ext4, LONG).await.expect("mkfs works"), Prepared::Made);
        // The first set of options is refused by the kernel, the second one taken.
        let spec = spec(device, target, &["noatime,no-such-option", "noatime,errors=remount-ro"]);
        mount(&spec).await.expect("the second set works");
        mount(&spec).await.expect("it is mounted already");
        let mounted = mountinfo::at(target).expect("/proc is readable").expect("it is mounted");
        assert_eq!((mounted.source.as_path(), mounted.file_system.as_str()), (device, "ext4"));
        let other = MountSpec { device: "/dev/null".into(), ..spec.clone() };
        assert!(matches!(mount(&other).await, Err(MountError::Occupied { .. })));

        fs::write(target.join("file"), "content").expect("it is writable");
        let user = fs::File::open(target.join("file")).expect("it is there");
        let busy = unmount(target, Duration::from_millis(120), false).await;
        assert!(matches!(busy, Err(MountError::Busy { .. })), "{busy:?}");
        drop(user);
        assert_eq!(unmount(target, LONG, false).await.expect("nobody uses it"), Unmounted::Clean);
        assert_eq!(unmount(target, LONG, false).await.expect("it is gone"), Unmounted::NotMounted);

        mount(&spec).await.expect("it is whole");
        assert_eq!(fs::read_to_string(target.join("file")).expect("it is there"), "content");
        let user = fs::File::open(target.join("file")).expect("it is there");
        assert_eq!(unmount(target, Duration::from_millis(120), true).await.expect("it is detached"), Unmounted::Lazy);
        assert_eq!(mountinfo::at(target).expect("/proc is readable"), None);
        drop(user);
    });
}

#[test]
fn a_damaged_file_system_is_not_mounted() {
    in_namespace(async |device, target| {
        make_if_blank(device, FileSystem::Ext4, LONG).await.expect("mkfs works");
        // The inode of the root directory, and with it everything.
        let wrecked =
            Command::new("debugfs").args(["-w", "-R", "clri <2>"]).arg(device).output().expect("e2fsprogs is there");
        assert!(wrecked.status.success());
        let marked =
            Command::new("debugfs").args(["-w", "-R", "ssv state 2"]).arg(device).output().expect("e2fsprogs is there");
        assert!(marked.status.success());
        match mount(&spec(device, target, &[])).await {
            Err(MountError::Damaged { program, code, .. }) => {
                assert_eq!((program.as_str(), code), ("e2fsck -p", Some(4)))
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(mountinfo::at(target).expect("/proc is readable"), None);
    });
}
