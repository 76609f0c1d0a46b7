//! `[volume]`.

use std::collections::BTreeMap;
use tandem_base::{ByteSize, NodeName, VolumeName};

use super::{Found, Reader};
use crate::diagnostic::Diagnostic;
use crate::{Ack, Attach, Code, Mode, Node, Volume};

/// Keys of a volume.
pub(crate) const KEYS: &[&str] = &["size", "replicas", "mode", "ack", "attach"];

/// Replicas are compared, stamped and sent in blocks of this many bytes.
const BLOCK_BYTES: u64 = 4_096;

impl Reader {
    pub(super) fn volumes(
        &mut self,
        section: &[Found<'_>],
        nodes: &BTreeMap<NodeName, Node>,
    ) -> BTreeMap<VolumeName, Volume> {
        let mut volumes = BTreeMap::new();
        for found in self.entries(section) {
            let name = self.key_name::<VolumeName>(&found);
            let Some(fields) = self.fields(&found, KEYS, &["history", "max_lag", "compression"]) else { continue };
            let size = match fields.get("size") {
                Some(size) => self.size(size),
                None => {
                    self.missing(&fields, "size", "\"20 GiB\"");
                    None
                }
            };
            let replicas = match fields.get("replicas") {
                Some(replicas) => self.replicas(replicas, nodes),
                None => {
                    let data =
                        nodes.values().filter(|node| !node.witness).map(|node| format!("{:?}", node.name.as_str()));
                    let example = data.take(2).collect::<Vec<_>>().join(", ");
                    let example = if example.is_empty() { "\"NODE\", \"NODE\"".to_owned() } else { example };
                    self.missing(&fields, "replicas", &format!("[{example}]"));
                    None
                }
            };
            let mode = match fields.get("mode") {
                Some(mode) => self.word(mode, &[("sync", Mode::Sync)], &["async"]),
                None => Some(Mode::Sync),
            };
            let ack = match fields.get("ack") {
                Some(ack) => self.word(ack, &[("memory", Ack::Memory), ("durable", Ack::Durable)], &[]),
                None => Some(Ack::Memory),
            };
            let attach = match fields.get("attach") {
                Some(attach) => {
                    let words = [("device", Attach::Device), ("file", Attach::File), ("nbd", Attach::Nbd)];
                    self.word(attach, &words, &["ublk"])
                }
                None => Some(Attach::Device),
            };
            if let (Some(name), Some(size), Some(replicas), Some(mode), Some(ack), Some(attach)) =
                (name, size, replicas, mode, ack, attach)
            {
                volumes.insert(name.clone(), Volume { name, size, replicas, mode, ack, attach });
            }
        }
        volumes
    }

    fn size(&mut self, found: &Found<'_>) -> Option<ByteSize> {
        let size: ByteSize = self.parsed(found, "\"20 GiB\"")?;
        let bytes = size.as_u64();
        let (label, help) = if bytes == 0 {
            ("holds nothing", "write for example: size = \"20 GiB\"".to_owned())
        } else if i64::try_from(bytes).is_err() {
            ("larger than a file can be", "a volume has at most 8 EiB".to_owned())
        } else if !bytes.is_multiple_of(BLOCK_BYTES) {
            let below = ByteSize::new(bytes - bytes % BLOCK_BYTES);
            let above = ByteSize::new(bytes.next_multiple_of(BLOCK_BYTES));
            let help = if below.as_u64() == 0 {
                format!("write \"{above}\"")
            } else {
                format!(
                    "write \"{above}\" or \"{below}\"; KiB, MiB and GiB are powers of 1,024, kB, MB and GB of 1,000"
                )
            };
            ("not a multiple of 4 KiB", help)
        } else {
            return Some(size);
        };
        let message = format!("`{}` cannot be {size}: a volume is a whole number of blocks of 4 KiB", found.path);
        self.say(Diagnostic::error(Code::BadSize, message).at(&found.value, label).help(help));
        None
    }

    fn replicas(&mut self, found: &Found<'_>, nodes: &BTreeMap<NodeName, Node>) -> Option<Vec<NodeName>> {
        let replicas = self.references::<NodeName>(found, "node")?;
        if replicas.is_empty() {
            let message = format!("`{}` is empty: nobody would keep the volume", found.path);
            let help = "name the nodes that keep a copy, one in each site";
            self.say(Diagnostic::error(Code::BadValue, message).at(&found.value, "no node").help(help));
            return None;
        }
        let mut whole = true;
        for (index, name) in replicas.iter().enumerate() {
            if nodes.get(name).is_some_and(|node| node.witness) {
                whole = false;
                let message = format!("`{name}` is a witness: it votes and holds no data");
                let spot = self.spots.value(&format!("{}.{index}", found.path));
                let mut diagnostic = Diagnostic::error(Code::Conflict, message);
                if let Some(spot) = spot {
                    diagnostic = diagnostic.at(&spot, "cannot keep a copy");
                }
                let data = nodes.values().filter(|node| !node.witness && !replicas.contains(&node.name));
                let others: Vec<&str> = data.map(|node| node.name.as_str()).collect();
                self.say(diagnostic.help(if others.is_empty() {
                    "leave it out, or take `witness = true` from it and give it a site".to_owned()
                } else {
                    format!("leave it out, or name {} instead", crate::nearest::among(others))
                }));
            }
        }
        whole.then_some(replicas)
    }
}
