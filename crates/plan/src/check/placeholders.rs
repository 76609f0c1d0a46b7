//! Every placeholder of a service has something to stand for.

use tandem_base::VolumeName;

use super::Checker;
use crate::{Attach, Code, Placeholder, Probe, Service, Template};

impl Checker<'_> {
    pub(super) fn placeholders(&mut self) {
        let plan = self.plan;
        for service in plan.services.values() {
            let base = format!("service.{}", service.name);
            if let Some(run) = &service.run {
                for (index, word) in run.process.iter().enumerate() {
                    self.fits(service, word, &format!("{base}.run.process.{index}"));
                }
                for (index, word) in run.before_stop.iter().enumerate() {
                    self.fits(service, word, &format!("{base}.run.before_stop.{index}"));
                }
                for (name, value) in &run.env {
                    self.fits(service, value, &format!("{base}.run.env.{name}"));
                }
                if let Some(dir) = &run.dir {
                    self.fits(service, dir, &format!("{base}.run.dir"));
                }
            }
            match service.check.as_ref().map(|check| &check.probe) {
                Some(Probe::Tcp(target)) => self.fits(service, target, &format!("{base}.check.tcp")),
                Some(Probe::Command(words)) => {
                    for (index, word) in words.iter().enumerate() {
                        self.fits(service, word, &format!("{base}.check.command.{index}"));
                    }
                }
                None => {}
            }
        }
    }

    fn fits(&mut self, service: &Service, template: &Template, path: &str) {
        for placeholder in template.placeholders() {
            let wrong = match placeholder {
                Placeholder::File(volume) => self.attached(service, volume.as_ref(), Attach::File, "file"),
                Placeholder::Socket(volume) => self.attached(service, volume.as_ref(), Attach::Nbd, "nbd"),
                Placeholder::Mount(volume) => self.attached(service, volume.as_ref(), Attach::Device, "device"),
                Placeholder::Address if service.address.is_none() => Some((
                    format!("service `{}` has no address", service.name),
                    "give it one: address = \"10.9.0.10/24\"".to_owned(),
                )),
                _ => None,
            };
            if let Some((why, help)) = wrong {
                let message = format!("`{placeholder}` stands for nothing here: {why}");
                let diagnostic =
                    self.error(Code::BadPlaceholder, message).at(&self.at(path), "in this text").help(help);
                self.say(diagnostic);
            }
        }
    }

    /// Why no volume of the service is meant, with the way out; `None` where exactly one is.
    fn attached(
        &self,
        service: &Service,
        named: Option<&VolumeName>,
        attach: Attach,
        word: &str,
    ) -> Option<(String, String)> {
        // A volume that could not be read was reported, and may be the one that is meant.
        if service.volumes.iter().any(|name| !self.plan.volumes.contains_key(name)) {
            return None;
        }
        let fitting = service.volumes.iter().filter_map(|name| self.plan.volumes.get(name));
        let fitting: Vec<&str> =
            fitting.filter(|volume| volume.attach == attach).map(|volume| volume.name.as_str()).collect();
        match named {
            Some(name) if fitting.contains(&name.as_str()) => None,
            Some(name) if service.volumes.contains(name) => Some((
                format!("volume `{name}` is not attached as `{word}`"),
                format!("write attach = \"{word}\" in [volume.{name}]"),
            )),
            Some(name) => Some((
                format!("service `{}` has no volume `{name}`", service.name),
                format!("its volumes are {}", crate::nearest::among(service.volumes.iter().map(|name| name.as_str()))),
            )),
            None => match (fitting.as_slice(), service.volumes.as_slice()) {
                ([_], _) => None,
                ([], []) => Some((
                    format!("service `{}` has no volume", service.name),
                    "give it one: volume = \"NAME\"".to_owned(),
                )),
                ([], [volume, ..]) => Some((
                    format!("no volume of service `{}` is attached as `{word}`", service.name),
                    format!("write attach = \"{word}\" in [volume.{volume}]"),
                )),
                ([first, ..], _) => Some((
                    format!("service `{}` has {} volumes attached as `{word}`", service.name, fitting.len()),
                    format!("say which, after a colon, as in `:{first}}}`"),
                )),
            },
        }
    }
}
