//! Whatever comes in whatever order: no panic, no second primary, no epoch twice, and the same log gives the same state.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tandem_base::{Change, Configuration, Epoch, OpenId, Proposal, RunId, SessionId};
use tandem_cluster::{Command, Entry, Failback, Outcome, ServiceSpec, State, intents};

use crate::world::{World, duo, group, named, node, service};

const NODES: [&str; 3] = ["r1", "h1", "w1"];

/// What a random step does; small numbers, so that steps meet.
#[derive(Debug, Clone)]
struct Roll {
    what: u8,
    who: usize,
    other: usize,
    number: u64,
    lucky: bool,
}

fn rolls() -> impl Strategy<Value = Vec<Roll>> {
    let roll = (0u8..18, 0usize..3, 0usize..3, 0u64..6, prop::bool::weighted(0.8));
    prop::collection::vec(
        roll.prop_map(|(what, who, other, number, lucky)| Roll { what, who, other, number, lucky }),
        1..120,
    )
}

/// A lucky roll asks something that fits the state; another asks anything.
fn command(state: &State, roll: &Roll, drawn: &mut u64) -> Command {
    let (name, other) = (node(NODES[roll.who]), node(NODES[roll.other]));
    let fresh = {
        *drawn += 1;
        if roll.lucky { *drawn } else { roll.number + 1 }
    };
    let session = state.session(&name).map_or(SessionId(roll.number), |session| session.session);
    let register = state.group(&group()).expect("founded");
    let registered = register.registered(&name);
    let placed = state.service(&service()).and_then(|it| it.assignment.clone());
    let (at, placement) = match placed {
        Some(assignment) if roll.lucky => (assignment.node, assignment.placement),
        _ => (name.clone(), roll.number),
    };
    let propose = |change| {
        let number = register.config.epoch.number.saturating_sub(u64::from(!roll.lucky));
        let expected = if roll.lucky { register.config.epoch } else { Epoch { number, tag: roll.number } };
        let (node, open) = match &register.config.primary {
            Some(primary) if roll.lucky && change != Change::Promote => (primary.node.clone(), primary.open),
            _ => (name.clone(), registered.unwrap_or(OpenId(roll.number))),
        };
        Command::Propose { group: group(), proposal: Proposal { expected, tag: fresh, node, open, change } }
    };
    match roll.what {
        0 | 1 => {
            let run = state.session(&name).filter(|_| roll.lucky).map_or(RunId(roll.number), |session| session.run);
            Command::OpenSession { node: name, run, session: SessionId(fresh) }
        }
        2 => Command::ExpireSession { node: name, session, why: String::new() },
        3 | 4 => {
            let previous = if roll.lucky { registered } else { Some(OpenId(roll.number)) }.into_iter().collect();
            Command::OpenReplica { group: group(), node: name, session, open: OpenId(fresh), previous }
        }
        5 => {
            let open = registered.unwrap_or(OpenId(roll.number));
            Command::CloseReplica { group: group(), node: name, session, open, why: String::new() }
        }
        6 | 7 => propose(Change::Promote),
        8 => propose(Change::Shrink([other].into())),
        9 => {
            let open = register.registered(&other).unwrap_or(OpenId(roll.number));
            propose(Change::Grow { node: other, open })
        }
        10 => propose(Change::Release),
        11 => Command::ServiceStarted { service: service(), node: at, placement },
        12 => Command::ServiceStopped { service: service(), node: at, placement },
        13 => Command::ServiceFailed { service: service(), node: at, placement, why: String::new() },
        14 => Command::Move { service: service(), to: name, by: "anna".into() },
        15 => Command::SetMaintenance { node: name, on: roll.lucky },
        16 => Command::SetPaused { on: !roll.lucky },
        _ => Command::ServiceSteady { service: named("dns"), node: name, placement },
    }
}

struct Watch {
    epochs: BTreeMap<u64, Configuration>,
}

impl Watch {
    fn look(&mut self, before: &State, after: &State) {
        let old = &before.group(&group()).expect("founded").config;
        let new = &after.group(&group()).expect("founded").config;
        if new.epoch.number > 0 {
            let first = self.epochs.entry(new.epoch.number).or_insert_with(|| new.clone());
            assert_eq!(first, new, "one epoch, one configuration");
            assert!(!new.in_sync.is_empty(), "the last member never leaves");
        }
        assert!(new.epoch.number == old.epoch.number || new.epoch.number == old.epoch.number + 1);
        if let Some(primary) = &new.primary {
            assert!(new.is_member(&primary.node, primary.open), "the primary holds every acknowledged write");
            if let Some(before_it) = old.primary.as_ref().filter(|old| *old != primary) {
                let may_act = before.replica_live(&group(), &before_it.node, before_it.open);
                assert!(!may_act, "{before_it:?} could still serve when {primary:?} came");
            }
            if old.primary.as_ref() != Some(primary) {
                assert_eq!(primary.promotion, new.epoch);
                assert!(old.is_member(&primary.node, primary.open));
            }
        }
        let mut serving = 0;
        let mut running = 0;
        for name in NODES {
            let intents = intents(after, &node(name));
            assert!(intents.serve.is_disjoint(&intents.release));
            serving += usize::from(intents.serve.contains(&group()));
            running += intents
                .services
                .iter()
                .filter(|(name, intent)| {
                    **name == service() && matches!(intent, tandem_cluster::ServiceIntent::Run { .. })
                })
                .count();
        }
        assert!(serving <= 1 && running <= 1, "one place at a time");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_log_is_safe_and_repeats_itself(rolls in rolls(), auto: bool, from_running: bool, cut in 0usize..120) {
        let mut topology = duo();
        if auto {
            topology.services.get_mut(&service()).expect("there").failback = Failback::Auto;
        }
        let dns = ServiceSpec { candidates: [node("r1"), node("h1"), node("w1")].into(), ..ServiceSpec::default() };
        topology.services.insert(named("dns"), dns);
        let mut world = World::new(topology);
        if from_running {
            world.up();
        }
        let mut watch = Watch { epochs: BTreeMap::new() };
        let mut drawn = 10_000;
        let mut snapshot = None;
        for (step, roll) in rolls.iter().enumerate() {
            let before = world.state.clone();
            let command = command(&world.state, roll, &mut drawn);
            let outcome = world.apply(command.clone());
            watch.look(&before, &world.state);
            if let (Outcome::Refused(_), Command::Propose { .. }) = (&outcome, &command) {
                prop_assert_eq!(before.groups(), world.state.groups());
            }
            // A relay sends it again: the id is known.
            let entry = world.log.last().expect("just appended").1.clone();
            let shown = (world.state.groups().clone(), world.state.services().clone());
            prop_assert_eq!(world.append(entry.clone()), outcome.clone());
            prop_assert_eq!(&shown, &(world.state.groups().clone(), world.state.services().clone()));
            // Even without the id, a copy at once changes no register. (A move or a failure may count twice.)
            if roll.what <= 10 {
                let _ = world.append(Entry { id: 0, ..entry });
                prop_assert_eq!(&shown.0, world.state.groups());
            }
            if step == cut {
                let bytes = postcard::to_allocvec(&world.state).expect("the state is plain data");
                snapshot = Some((bytes, world.log.len()));
            }
        }
        let mut replay = State::default();
        for (index, entry) in &world.log {
            let _ = replay.apply(*index, entry);
        }
        prop_assert_eq!(&replay, &world.state);
        if let Some((bytes, done)) = snapshot {
            let mut restored: State = postcard::from_bytes(&bytes).expect("it was written so");
            for (index, entry) in &world.log[done..] {
                let _ = restored.apply(*index, entry);
            }
            prop_assert_eq!(&restored, &world.state);
        }
    }
}
