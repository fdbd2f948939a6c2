use proptest::prelude::*;

use super::*;

const PARTITIONS: usize = 3;
/// The place of the control topic among the logs.
const CONTROL: usize = PARTITIONS;

fn at(partition: usize) -> TopicPartition {
    match partition {
        CONTROL => control_topics::partition_of("d.cdc-control"),
        _ => TopicPartition {
            topic: "t".into(),
            partition: partition as i32,
        },
    }
}

/// The log of a partition that is read, or that has moved.
fn log_of(at: &TopicPartition) -> usize {
    match &*at.topic {
        "t" if at.partition >= 0 => at.partition as usize,
        _ => CONTROL,
    }
}

fn read_to(merge: &Merge, lane: usize) -> usize {
    let of_lane = merge.read().find(|(at, _)| *at == merge.at(lane));
    of_lane.expect("it is read").1 as usize
}

fn offer(merge: &mut Merge, lane: usize, record: Record) {
    merge.offer(lane, record, |_, _| true);
}

fn record(partition: usize, offset: usize, version: Version, op: &str) -> Record {
    let version = version.to_string();
    let headers = [
        ("cdc.version", version.as_str()),
        ("cdc.op", op),
        ("cdc.topic", "t"),
    ];
    let headers = headers.map(|(name, value)| (name, Some(value.as_bytes())));
    let at = at(partition);
    Record::new(
        at.topic,
        at.partition,
        offset as i64,
        None,
        None,
        headers.into_iter(),
    )
}

fn version(lsn: u64, sequence: u64) -> Version {
    Version {
        generation: 1,
        timeline: 1,
        commit_lsn: lsn,
        sequence,
        sub: 0,
    }
}

/// What a source did: transactions of events, each for one partition or about the table; how often the sender started again, and
/// from which event on it sent once more.
#[derive(Debug, Clone)]
struct SourceLog {
    transactions: Vec<Vec<Option<usize>>>,
    restarts: Vec<(usize, usize)>,
}

fn sources() -> impl Strategy<Value = SourceLog> {
    let event = prop_oneof![9 => (0..PARTITIONS).prop_map(Some), 1 => Just(None)];
    let transactions = prop::collection::vec(prop::collection::vec(event, 1..6), 1..12);
    let restarts = prop::collection::vec((0usize..60, 0usize..60), 0..3);
    (transactions, restarts).prop_map(|(transactions, restarts)| SourceLog {
        transactions,
        restarts,
    })
}

struct Sent {
    /// The logs of the partitions.
    logs: Vec<Vec<Record>>,
    /// What is to come out, in order.
    order: Vec<Version>,
    /// After each transaction: its place and the ends of the partitions.
    positions: Vec<(Place, Vec<usize>)>,
}

/// Sends as the sender does: in order, and after a start again from an earlier event on.
fn send(source: &SourceLog) -> Sent {
    let mut owed = Vec::new();
    let mut order = Vec::new();
    let mut ends_of_transactions: Vec<usize> = Vec::new();
    for (number, events) in source.transactions.iter().enumerate() {
        for (sequence, to) in events.iter().enumerate() {
            let version = version(number as u64 * 10 + 7, sequence as u64 + 1);
            order.push(version);
            owed.push(match to {
                Some(partition) => (*partition, version, "u"),
                None => (CONTROL, version, "t"),
            });
        }
        ends_of_transactions.push(owed.len());
    }
    let mut logs: Vec<Vec<Record>> = vec![Vec::new(); PARTITIONS + 1];
    let put = |logs: &mut Vec<Vec<Record>>, (partition, version, op): (usize, Version, &str)| {
        let offset = logs[partition].len();
        logs[partition].push(record(partition, offset, version, op));
    };
    let mut highest = 0;
    for (until, from) in &source.restarts {
        let until = (*until).min(owed.len());
        for event in &owed[(*from).min(highest).min(until)..until] {
            put(&mut logs, *event);
        }
        highest = highest.max(until);
    }
    // The last run writes the positions; it may begin anywhere before what was sent.
    let mut sent = highest / 2;
    let mut positions = Vec::new();
    for (number, end) in ends_of_transactions.into_iter().enumerate() {
        for event in &owed[sent.min(end)..end] {
            put(&mut logs, *event);
        }
        sent = sent.max(end);
        let place = version(number as u64 * 10 + 7, 0).place();
        positions.push((place, logs.iter().map(Vec::len).collect()));
    }
    Sent {
        logs,
        order,
        positions,
    }
}

proptest! {
    #[test]
    fn every_event_comes_once_and_in_order(source in sources(), goals in prop::collection::vec(0usize..12, 1..4), restart_at in 0usize..30) {
        let sent = send(&source);
        let mut goals: Vec<usize> = goals.iter().map(|goal| goal % sent.positions.len()).collect();
        goals.push(sent.positions.len() - 1);
        goals.sort_unstable();
        let mut stored: Vec<(i64, String)> = vec![(0, String::new()); PARTITIONS + 1];
        let mut out: Vec<Version> = Vec::new();
        let mut merge = fresh(&stored);
        let mut restart_at = Some(restart_at);
        for goal in goals {
            let (place, ends) = &sent.positions[goal];
            let end_of = |at: &TopicPartition| {
                (at.partition >= 0).then(|| ends[log_of(at)] as i64)
            };
            merge.set_goal(*place, end_of);
            loop {
                match merge.next() {
                    Next::Reached => break,
                    Next::Missing(lane) => {
                        let log = &sent.logs[log_of(merge.at(lane))];
                        let from = read_to(&merge, lane);
                        prop_assert!(from < log.len(), "a partition is asked beyond its end");
                        offer(&mut merge, lane, log[from].clone());
                    }
                    Next::Event(of) => {
                        prop_assert!(of <= *place, "nothing beyond the goal");
                        let is_next_commit = out.last().is_some_and(|last: &Version| last.place() < of);
                        if is_next_commit && restart_at.take_if(|at| *at == out.len()).is_some() {
                            // What was handed out is stored, and the process starts again.
                            for moved in merge.moves() {
                                stored[log_of(&moved.at)] = (moved.end, moved.version);
                            }
                            merge = fresh(&stored);
                            merge.set_goal(*place, end_of);
                            continue;
                        }
                        let record = merge.take().unwrap();
                        out.push(Version::parse(record.version().unwrap()).unwrap());
                    }
                }
            }
        }
        prop_assert_eq!(out, sent.order);
        let logs = sent.logs[..PARTITIONS].iter();
        let ends: Vec<i64> = logs.map(|log| log.len() as i64).collect();
        let moves = merge.moves();
        merge.moved(&moves);
        let stored: Vec<i64> = merge.stored().map(|(_, next)| next).collect();
        prop_assert_eq!(stored, ends);
    }
}

fn fresh(stored: &[(i64, String)]) -> Merge {
    let mut merge = Merge::new("replica", false);
    for (partition, (next, version)) in stored.iter().enumerate() {
        match partition {
            CONTROL => {
                merge.add_control(&"t".into(), *next, version);
                merge.add_control_topic(at(CONTROL), 0);
            }
            _ => {
                merge.add(at(partition), *next, version);
            }
        }
    }
    merge
}

#[test]
fn what_claims_a_commit_beyond_hides_nothing_behind_it() {
    let mut merge = fresh(&[(0, String::new()), (0, String::new())]);
    let goal = version(30, 0).place();
    merge.set_goal(goal, |at| Some(if at.partition == 0 { 4 } else { 0 }));
    for (offset, lsn) in [(0, 10), (1, 1 << 40), (2, 20), (3, 10)] {
        offer(&mut merge, 0, record(0, offset, version(lsn, 1), "u"));
    }
    let mut out = Vec::new();
    loop {
        match merge.next() {
            Next::Event(_) => {
                let record = merge.take().unwrap();
                out.push((record.offset, record.is_disbelieved));
            }
            Next::Missing(_) => panic!("all was read"),
            Next::Reached => match merge.beyond(goal).first() {
                Some((place, offset)) => {
                    assert_eq!((*place, *offset), (0, 1));
                    merge.disbelieve(0);
                }
                None => break,
            },
        }
    }
    assert_eq!(out, [(0, false), (1, true), (2, false)]);
    assert_eq!(merge.take_duplicates(), 1);
    let moves = merge.moves();
    assert_eq!(moves[0].end, 4);
    assert_eq!(moves[0].version, version(20, 1).to_string());
}

#[test]
fn a_partition_that_is_read_to_its_end_holds_nobody_up() {
    let mut merge = fresh(&[(0, String::new()), (5, String::new())]);
    merge.set_goal(version(1, 0).place(), |at| {
        Some(if at.partition == 0 { 1 } else { 9 })
    });
    offer(&mut merge, 0, record(0, 0, version(1, 1), "u"));
    // Aborted or compacted records: the log ends, and nothing came.
    let Next::Missing(lane) = merge.next() else {
        panic!("the second partition is not read to its end")
    };
    merge.offer_end(lane, 9);
    assert_eq!(merge.next(), Next::Event(version(1, 0).place()));
    assert!(merge.take().is_some());
    assert_eq!(merge.next(), Next::Reached);
    let ends: Vec<i64> = merge.moves().iter().map(|moved| moved.end).collect();
    assert_eq!(ends, [1, 9]);
}
