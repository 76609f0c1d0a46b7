//! `[service]`: everything but what runs, which is read in `run`.

use std::collections::BTreeMap;
use tandem_base::{Duration, ServiceName, SiteName, VolumeName};

use super::{Fields, Found, Reader, fields::Node as Written};
use crate::diagnostic::Diagnostic;
use crate::{Attach, Code, Failback, Filesystem, Mount, Plan, Service, ServiceAddress};

/// Keys of a service.
pub(crate) const KEYS: &[&str] = &[
    "volume",
    "volumes",
    "filesystem",
    "mount",
    "address",
    "run",
    "check",
    "prefer",
    "failback",
    "rto",
    "rpo",
    "after",
    "start_timeout",
    "stop_timeout",
];

const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

impl Reader {
    /// `plan` has all but its services.
    pub(super) fn services(&mut self, section: &[Found<'_>], plan: &Plan) -> BTreeMap<ServiceName, Service> {
        let mut services = BTreeMap::new();
        for found in self.entries(section) {
            let name = self.key_name::<ServiceName>(&found);
            let Some(fields) = self.fields(&found, KEYS, &["addresses", "dns", "backup", "zone", "needs"]) else {
                continue;
            };
            let volumes = self.service_volumes(&fields);
            let mounts = volumes.as_ref().and_then(|volumes| self.mounts(&fields, volumes, plan));
            let address = match fields.get("address") {
                Some(address) => self.service_address(address).map(Some),
                None => Some(None),
            };
            let run = match fields.get("run") {
                Some(run) => self.process(run).map(Some),
                None => Some(None),
            };
            let check = match fields.get("check") {
                Some(check) => self.check(check).map(Some),
                None => Some(None),
            };
            let prefer = match fields.get("prefer") {
                Some(prefer) => self.reference::<SiteName>(prefer, "site"),
                None => home(volumes.as_deref().unwrap_or_default(), plan),
            };
            let failback = match fields.get("failback") {
                Some(failback) => self.word(failback, &[("manual", Failback::Manual), ("auto", Failback::Auto)], &[]),
                None => Some(Failback::Manual),
            };
            let rto = self.objective(&fields, "rto");
            let rpo = fields.get("rpo").and_then(|rpo| self.duration(rpo));
            let after = match fields.get("after") {
                Some(after) => self.references::<ServiceName>(after, "service"),
                None => Some(Vec::new()),
            };
            let start_timeout = self.objective(&fields, "start_timeout").unwrap_or(START_TIMEOUT);
            let stop_timeout = self.objective(&fields, "stop_timeout").unwrap_or(STOP_TIMEOUT);
            let nothing = ["volume", "volumes", "address", "run"].iter().all(|key| fields.get(key).is_none());
            if nothing {
                let message = format!("{} has no volume, no address and nothing to run", fields.title());
                let help = "say what runs: run = { process = [\"PROGRAM\", \"ARGUMENT\"] }";
                self.say(Diagnostic::error(Code::MissingKey, message).at(&found.key, "does nothing").help(help));
            }
            let (Some(name), Some(volumes), Some(mounts), Some(address)) = (name, volumes, mounts, address) else {
                continue;
            };
            let (Some(run), Some(check), Some(prefer), Some(failback), Some(after)) =
                (run, check, prefer, failback, after)
            else {
                continue;
            };
            let service = Service {
                name: name.clone(),
                volumes,
                mounts,
                address,
                run,
                check,
                prefer,
                failback,
                rto,
                rpo,
                after,
                start_timeout,
                stop_timeout,
            };
            services.insert(name, service);
        }
        services
    }

    fn service_volumes(&mut self, fields: &Fields<'_>) -> Option<Vec<VolumeName>> {
        match (fields.get("volume"), fields.get("volumes")) {
            (Some(one), Some(_)) => {
                let message = format!("{} has both `volume` and `volumes`", fields.title());
                let help = "write all of them into `volumes`";
                self.say(Diagnostic::error(Code::Conflict, message).at(&one.key, "one of the two").help(help));
                None
            }
            (Some(one), None) => self.reference(one, "volume").map(|volume| vec![volume]),
            (None, Some(several)) => self.references(several, "volume"),
            (None, None) => Some(Vec::new()),
        }
    }

    /// A duration that is not zero.
    fn objective(&mut self, fields: &Fields<'_>, key: &str) -> Option<Duration> {
        let found = fields.get(key)?;
        let duration = self.duration(found)?;
        if duration == Duration::ZERO {
            let message = format!("`{}` cannot be zero", found.path);
            let help = "nothing happens in no time; write for example \"30 s\"";
            self.say(Diagnostic::error(Code::BadValue, message).at(&found.value, "zero").help(help));
            return None;
        }
        Some(duration)
    }

    fn service_address(&mut self, found: &Found<'_>) -> Option<ServiceAddress> {
        if let Written::Value(toml_edit::Value::Array(_)) = found.node {
            self.not_yet(found, "a service with several addresses", "write one address as a text");
            return None;
        }
        let text = self.text(found, "\"10.9.0.10/24\"")?;
        let wrong = |label: &str, help: String| {
            let message = format!("`{}` cannot be {text:?}", found.path);
            Diagnostic::error(Code::BadValue, message).at(&found.value, label).help(help)
        };
        let address: ServiceAddress = match text.parse() {
            Ok(address) => address,
            Err(expected) => {
                self.say(match text.parse::<core::net::IpAddr>() {
                    Ok(ip) => {
                        let prefix_len = if ip.is_ipv4() { 24 } else { 64 };
                        wrong("without its network", format!("add the length of its network: \"{ip}/{prefix_len}\""))
                    }
                    Err(_) => wrong("not an address", format!("write {expected}")),
                });
                return None;
            }
        };
        let ip = address.ip;
        let is_broadcast = matches!(ip, core::net::IpAddr::V4(ip) if ip.is_broadcast());
        if address.prefix_len == 0 || ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || is_broadcast {
            let help = "write a free address of the network that the users reach".to_owned();
            self.say(wrong("nobody can reach a service there", help));
            return None;
        }
        if let core::net::IpAddr::V4(v4) = ip
            && address.prefix_len < 31
        {
            let host = u32::MAX >> address.prefix_len;
            let own = v4.to_bits() & host;
            if own == 0 || own == host {
                let label = if own == 0 { "the network itself" } else { "the network's broadcast address" };
                self.say(wrong(label, "write a host's address in it".to_owned()));
                return None;
            }
        }
        Some(address)
    }

    /// The mounts of the volumes that attach as a device; `None` where something is wrong, or a volume was.
    fn mounts(&mut self, fields: &Fields<'_>, volumes: &[VolumeName], plan: &Plan) -> Option<Vec<Mount>> {
        let mut whole = true;
        let mut devices = Vec::new();
        for name in volumes {
            match plan.volumes.get(name) {
                Some(volume) if volume.attach == Attach::Device => devices.push(name),
                Some(_) => {}
                None => whole = false,
            }
        }
        let filesystem = match fields.get("filesystem") {
            Some(found) => self.word(found, &[("ext4", Filesystem::Ext4)], &["xfs", "btrfs", "ext3", "zfs"]),
            None => None,
        };
        if !whole {
            return None;
        }
        let Some(first) = devices.first() else {
            let mut right = true;
            for key in ["filesystem", "mount"] {
                let Some(found) = fields.get(key) else { continue };
                right = false;
                let (message, help) = match volumes.first().and_then(|name| plan.volumes.get(name)) {
                    Some(volume) => (
                        format!(
                            "`{}` means nothing for volume `{}`, which is attached as a {}",
                            found.path,
                            volume.name,
                            if volume.attach == Attach::File { "plain file" } else { "NBD socket" }
                        ),
                        format!("leave `{key}` out, or write attach = \"device\" in [volume.{}]", volume.name),
                    ),
                    None => (
                        format!("`{}` means nothing for a service without a volume", found.path),
                        format!("leave `{key}` out, or name a volume: volume = \"NAME\""),
                    ),
                };
                self.say(Diagnostic::error(Code::Conflict, message).at(&found.key, "nothing to mount").help(help));
            }
            return right.then(Vec::new);
        };
        for (key, example) in [("filesystem", "\"ext4\""), ("mount", "\"/srv/NAME\"")] {
            if fields.get(key).is_none() {
                let message =
                    format!("volume `{first}` is attached as a device, and {} has no `{key}`", fields.title());
                let mut diagnostic = Diagnostic::error(Code::MissingKey, message);
                if let Some(spot) = fields.spot() {
                    diagnostic = diagnostic.at(spot, format!("`{key}` is missing"));
                }
                let help = format!("add: {key} = {example}; or write attach = \"file\" or \"nbd\" in [volume.{first}]");
                self.say(diagnostic.help(help));
            }
        }
        let (filesystem, found) = (filesystem?, fields.get("mount")?);
        let device_names = || devices.iter().map(|name| name.as_str());
        let mut paths = BTreeMap::new();
        match found.node {
            Written::Table(_) => {
                let known: Vec<&str> = device_names().collect();
                let table = self.fields(found, &known, &[])?;
                for name in &devices {
                    match table.get(name.as_str()) {
                        Some(path) => paths.insert((*name).clone(), self.mount_path(path)?),
                        None => {
                            self.missing(&table, name.as_str(), "\"/srv/NAME\"");
                            return None;
                        }
                    };
                }
            }
            _ if devices.len() > 1 => {
                let each =
                    device_names().map(|name| format!("{name} = \"/srv/{name}\"")).collect::<Vec<_>>().join(", ");
                let help = format!("write one directory for each: mount = {{ {each} }}");
                self.wrong_type(found, "a table, since several volumes are mounted", &help);
                return None;
            }
            _ => {
                paths.insert((*first).clone(), self.mount_path(found)?);
            }
        }
        let mount = |name: &&VolumeName| {
            let path = paths.get(*name)?.clone();
            Some(Mount { volume: (*name).clone(), filesystem, path })
        };
        devices.iter().map(mount).collect()
    }

    fn mount_path(&mut self, found: &Found<'_>) -> Option<String> {
        /// A file system mounted there would hide what the machine lives on.
        const SYSTEM: [&str; 14] = [
            "/", "/bin", "/boot", "/dev", "/etc", "/lib", "/proc", "/root", "/run", "/sbin", "/sys", "/tmp", "/usr",
            "/var",
        ];
        let text = self.text(found, "\"/srv/NAME\"")?;
        let path = if text.len() > 1 { text.trim_end_matches('/') } else { text };
        let plain = path.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != "..");
        let (label, help) = if !path.starts_with('/') {
            ("not absolute", "write it from the root, as \"/srv/NAME\"")
        } else if SYSTEM.contains(&path) {
            ("would hide the system's own files", "mount it on a directory of its own, as \"/srv/NAME\"")
        } else if !plain || path.contains(char::is_control) {
            ("not a plain path", "write it without `.`, `..`, `//` and control characters, as \"/srv/NAME\"")
        } else {
            return Some(path.to_owned());
        };
        let message = format!("`{}` cannot be {text:?}", found.path);
        self.say(Diagnostic::error(Code::BadValue, message).at(&found.value, label).help(help));
        None
    }
}

/// Where a service lives when nothing was said: with the first replica of its first volume, else in the first site that
/// has a machine for it.
fn home(volumes: &[VolumeName], plan: &Plan) -> Option<SiteName> {
    let replica = volumes.first().and_then(|name| plan.volumes.get(name)).and_then(|volume| volume.replicas.first());
    match replica {
        Some(node) => plan.nodes.get(node)?.site.clone(),
        None => plan.nodes.values().filter(|node| !node.witness).filter_map(|node| node.site.clone()).min(),
    }
}
