//! Gives damaged bytes to what reads bytes: `change_fuzz TARGET SECONDS [SEED]`. Whatever comes, an error is the answer,
//! never a panic, and never a stack or memory that has no end. Ends with the bytes that did it in a file.
//!
//! Stable Rust and no other library: well-formed input of every kind is made, and then bytes are changed, cut out, doubled
//! and put together anew, most of them numbers that mean a length somewhere.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use change::event::commit::Commit;
use change::event::renderer::controls::Controls;
use change::event::record::Sent;
use change::event::render_options::RenderOptions;
use change::event::renderer::Renderer;
use change::mac_key::MacKey;
use change::position::Position;
use change::value::hstore;
use change::value::kind::Kind;
use change::wal::body;
use change::wal::body::{Body, Head};
use change::wal::context;
use change::wal::context::Context;
use change::wal::emission::Emission;
use change::wal::message;
use change::wal::message::{Compressor, Header, Manifest};
use change::wal::order;
use change::wal::record;
use change::wal::record::{RecordKind, RecordState};
use change::wal::relation::{Column, Masked, Relation};
use change::wal::snapshot_chunk::{ChunkBegin, ChunkEnd, Visibility};
use change::wire::{WireError, put_bytes, put_varint};

/// xorshift64*: the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn one<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Numbers at which something changes.
const EDGES: [u8; 14] = [0, 1, 2, 7, 8, 31, 32, 33, 64, 65, 0x7f, 0x80, 0xfe, 0xff];

fn damage(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..=random.below(6) {
        let len = bytes.len();
        let at = random.below(len.max(1));
        match random.below(8) {
            0 if len > 0 => bytes[at] ^= 1 << random.below(8),
            1 if len > 0 => bytes[at] = *random.one(&EDGES),
            2 => bytes.truncate(at),
            3 if len > 0 => {
                let end = (at + 1 + random.below(16)).min(len);
                bytes.drain(at..end);
            }
            4 if len > 0 => {
                let end = (at + 1 + random.below(64)).min(len);
                let part = bytes[at..end].to_vec();
                let to = random.below(len);
                bytes.splice(to..to, part);
            }
            5 => {
                let numbers: Vec<u8> = (0..1 + random.below(9))
                    .map(|_| *random.one(&EDGES))
                    .collect();
                let end = at.min(len);
                bytes.splice(end..end, numbers);
            }
            6 if len > 8 => {
                let at = random.below(len - 8);
                bytes[at..at + 8].copy_from_slice(&random.next().to_le_bytes());
            }
            _ => bytes.push(random.next() as u8),
        }
    }
    bytes.truncate(1 << 16);
}

fn kind(random: &mut Random, levels: usize) -> Kind {
    match random.below(if levels == 0 { 19 } else { 23 }) {
        0 => Kind::Bool,
        1 => Kind::Int2,
        2 => Kind::Int4,
        3 => Kind::Int8,
        4 => Kind::Oid,
        5 => Kind::Float4,
        6 => Kind::Float8,
        7 => Kind::Date,
        8 => Kind::Time,
        9 => Kind::TimeTz,
        10 => Kind::Timestamp,
        11 => Kind::TimestampTz,
        12 => Kind::Interval,
        13 => Kind::Uuid,
        14 => Kind::Text,
        15 => Kind::Bytea,
        16 => Kind::Numeric,
        17 => Kind::Bit1,
        18 => Kind::Hstore,
        19 | 20 => Kind::Array(Box::new(kind(random, levels - 1))),
        _ => Kind::Composite(
            (0..random.below(4))
                .map(|number| (format!("a{number}"), kind(random, levels - 1)))
                .collect(),
        ),
    }
}

fn noise(random: &mut Random, most: usize) -> Vec<u8> {
    (0..random.below(most))
        .map(|_| match random.below(3) {
            0 => *random.one(&EDGES),
            1 => b'0' + random.below(10) as u8,
            _ => random.next() as u8,
        })
        .collect()
}

fn image(random: &mut Random, out: &mut Vec<u8>, columns: &[Column<'_>], is_new: bool) {
    let bitmap = columns.len().div_ceil(8);
    let flags = u8::from(is_new) << 1 | random.below(2) as u8 | (random.below(2) as u8) << 2;
    out.push(flags);
    let mut bits = |wanted: bool| -> Vec<u8> {
        let bits: Vec<u8> = match wanted {
            true => (0..bitmap).map(|_| random.next() as u8).collect(),
            false => vec![if is_new { 0xff } else { 0 }; bitmap],
        };
        if wanted {
            out.extend_from_slice(&bits);
        }
        bits
    };
    let changed = bits(is_new);
    let nulls = bits(flags & 1 != 0);
    let stubs = bits(flags & 4 != 0);
    let set = |bits: &[u8], index: usize| bits[index / 8] >> (index % 8) & 1 == 1;
    for (index, column) in columns.iter().enumerate() {
        if is_new && !set(&changed, index) || flags & 1 != 0 && set(&nulls, index) {
            continue;
        }
        if flags & 4 != 0 && set(&stubs, index) {
            out.extend_from_slice(&[7; 40]);
            continue;
        }
        match column.kind.fixed_len() {
            Some(len) => out.extend((0..len).map(|_| match random.below(2) {
                0 => *random.one(&EDGES),
                _ => random.next() as u8,
            })),
            None => put_bytes(out, &noise(random, 40)),
        }
    }
}

/// A body as capture writes it, with any kinds and values.
fn body_bytes(random: &mut Random) -> Vec<u8> {
    let kinds: Vec<Kind> = (0..random.below(9)).map(|_| kind(random, 4)).collect();
    let columns: Vec<Column<'_>> = kinds
        .iter()
        .map(|kind| Column {
            name: *random.one(&["id", "name", "c\u{e4}", ""]),
            kind: kind.clone(),
            masked: *random.one(&[None, None, Some(Masked::Hashed), Some(Masked::Redacted)]),
        })
        .collect();
    let mut out = Vec::new();
    put_head(random, &mut out, &columns);
    let mut state = RecordState::START;
    record::switch_context(&mut out, &mut state, 0);
    record::switch_statement(&mut out, &mut state, random.next() as i64);
    for sequence in 1..=random.below(5) as u64 {
        put_record(random, &mut out, &mut state, sequence, &columns);
    }
    out
}

/// The head of a body, with one context and one relation of these columns.
fn put_head(random: &mut Random, out: &mut Vec<u8>, columns: &[Column<'_>]) {
    let some_columns = |random: &mut Random| -> Vec<usize> {
        (0..columns.len())
            .filter(|_| random.below(2) == 0)
            .collect()
    };
    let relation = Relation {
        oid: 7,
        schema: "public",
        table: "t",
        topic: "shop.public.t",
        topics: [None, None, *random.one(&[None, Some("d")]), None],
        key: some_columns(random),
        identity: (random.below(2) == 0).then(|| some_columns(random)),
        tombstones: random.below(2) == 0,
        columns: columns.to_vec(),
    };
    let context = Context {
        transaction_us: random.next() as i64,
        actor: Some("ann"),
        context: Some("{\"a\":1}"),
        ..Context::default()
    };
    let (mut contexts, mut relations) = (Vec::new(), Vec::new());
    context::put_context(&mut contexts, &context);
    relation.put(&mut relations);
    let head = Head {
        database: "shop",
        prefix: "shop",
        base: RecordState::START,
        contexts: (1, &contexts),
        relations: (1, &relations),
    };
    body::put_head(out, &head);
}

/// One record of any kind.
fn put_record(
    random: &mut Random,
    out: &mut Vec<u8>,
    state: &mut RecordState,
    sequence: u64,
    columns: &[Column<'_>],
) {
    let op = *random.one(&KINDS);
    let start = record::begin_row(out, state, op, 0, sequence, 3);
    match op {
        RecordKind::Insert | RecordKind::Delete | RecordKind::Read => {
            image(random, out, columns, false);
        }
        RecordKind::Update | RecordKind::KeyDelete | RecordKind::KeyCreate => {
            if random.below(2) == 0 {
                record::mark_key_changed(out, start);
            }
            image(random, out, columns, false);
            image(random, out, columns, true);
        }
        RecordKind::Truncate => {}
        RecordKind::Schema => out.extend_from_slice(b"{\"type\":\"ALTER\"}"),
        RecordKind::Emit => Emission {
            key: Some("k"),
            payload: Some("{}"),
            headers: vec![("h", "v")],
        }
        .put(out),
        RecordKind::ChunkBegin => ChunkBegin {
            snapshot_id: 1,
            chunk: 1,
            session: 1,
            slot: 0,
            visibility: Visibility {
                xmin: 3,
                xmax: 9,
                in_progress: vec![4],
            },
            sinks: None,
        }
        .put(out),
        RecordKind::ChunkEnd => ChunkEnd {
            from: None,
            to: Some("{\"id\":1}"),
            partial: false,
        }
        .put(out),
    }
    record::end_record(out, start);
}

const KINDS: [RecordKind; 11] = [
    RecordKind::Insert,
    RecordKind::Update,
    RecordKind::Delete,
    RecordKind::Truncate,
    RecordKind::Schema,
    RecordKind::Emit,
    RecordKind::Read,
    RecordKind::KeyDelete,
    RecordKind::KeyCreate,
    RecordKind::ChunkBegin,
    RecordKind::ChunkEnd,
];

/// Everything that the sender does with a body.
fn use_body(bytes: &[u8]) {
    let Ok(body) = Body::parse(bytes) else { return };
    let commit = Commit {
        nonce: [1; 16],
        xid8: 9,
        database_oid: 5,
        generation: 1,
        timeline: 1,
        lsn: 100,
        previous_lsn: None,
        commit_us: 1,
        event_count: 5,
    };
    let mut renderer = Renderer::new(commit, 1000, Controls::default());
    let circumstances = RenderOptions {
        sent_us: 1,
        tombstones: true,
        truncates: true,
        session: 1,
        is_snapshot: &|_| true,
        is_withheld: &|topic| topic.len() % 2 == 1,
    };
    // Half of the events come again, with stubs.
    let mut turn = false;
    let rendered = renderer.render::<WireError>(&body, &circumstances, &mut |event| {
        turn = !turn;
        if turn && event.can_shrink {
            return Ok(Sent::TooLarge { limit_bytes: 100 });
        }
        let _ = event.headers.iter().count();
        Ok(Sent::Taken)
    });
    // An error is as good an answer as events are.
    drop(rendered);
    let bytes = Rc::new(bytes.to_vec());
    drop(order::sort::<WireError>(
        2,
        1000,
        &mut |_| Ok(Rc::clone(&bytes)),
        &mut |sorted| Body::parse(&sorted).map(drop),
    ));
}

fn fuzz_body(random: &mut Random) -> Vec<u8> {
    let mut bytes = body_bytes(random);
    if random.below(4) != 0 {
        damage(random, &mut bytes);
    }
    bytes
}

fn fuzz_chunk(random: &mut Random) -> Vec<u8> {
    let mut body = body_bytes(random);
    body.resize(body.len() + random.below(600), 7);
    let header = Header {
        xid8: random.next(),
        record_xid: 7,
        number: 0,
        nonce: [3; 16],
        database_oid: 5,
    };
    let manifest = Manifest {
        chunks: 1,
        unordered: false,
        rows: 1,
        key_changes: 0,
        first_lsn: random.next(),
    };
    let mut compressor = Compressor::default();
    let mut out = Vec::new();
    message::seal(
        &mut out,
        &MacKey::derive("fuzz", b"key"),
        &header,
        (random.below(2) == 0).then_some(&manifest),
        &body,
        (random.below(2) == 0).then_some(&mut compressor),
    );
    if random.below(4) != 0 {
        damage(random, &mut out);
    }
    out
}

fn use_chunk(bytes: &[u8]) {
    let _ = message::open(bytes, &MacKey::derive("fuzz", b"key")).is_ok();
    // Past the MAC, as if it were right.
    if let Ok(chunk) = message::read(bytes)
        && chunk.body_bytes() <= 1 << 24
    {
        let mut out = Vec::new();
        if chunk.body_into(&mut out).is_ok() {
            use_body(&out);
        }
    }
}

fn fuzz_position(random: &mut Random) -> Vec<u8> {
    let mut bytes = br#"{"format":1,"source":"s","name":"pg","generation":1,"epoch":1,"timeline":1,"timeline_start":"0/0","commit_lsn":"0/16B3748","restart_lsn":"0/16B3000","nonce":"00","events":{"done":1,"of":2},"effective_ts_us":1,"sent_ts_us":2,"heartbeat_ms":3,"node":"n","cluster_id":"c","ends":{"t":{"topic_id":"x","partitions":2,"ends":[1,2]}},"mac":"00"}"#.to_vec();
    damage(random, &mut bytes);
    bytes
}

fn use_position(bytes: &[u8]) {
    let _ = Position::open(bytes, &MacKey::derive("fuzz", b"key")).is_some();
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = change::position::parse_lsn(text);
    }
}

fn fuzz_kind(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    kind(random, 8).put(&mut bytes);
    if random.below(8) == 0 {
        let levels = random.below(1 << 16);
        bytes = vec![*random.one(&[64, 65]); levels];
    }
    put_varint(&mut bytes, random.next());
    damage(random, &mut bytes);
    bytes
}

fn use_kind(bytes: &[u8]) {
    let mut cursor = change::wire::Cursor::new(bytes);
    if let Ok(kind) = Kind::read(&mut cursor) {
        drop(change::value::put_value(
            &mut Vec::new(),
            &kind,
            cursor.rest(),
        ));
    }
    drop(hstore::to_json(bytes));
}

type Target = (fn(&mut Random) -> Vec<u8>, fn(&[u8]));

fn target(name: &str) -> Option<Target> {
    Some(match name {
        "body" => (fuzz_body, use_body),
        "chunk" => (fuzz_chunk, use_chunk),
        "kind" => (fuzz_kind, use_kind),
        "position" => (fuzz_position, use_position),
        _ => return None,
    })
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let parsed = match arguments.as_slice() {
        [name, seconds, rest @ ..] => target(name)
            .zip(seconds.parse().ok())
            .map(|(target, seconds)| (target, seconds, rest.first())),
        _ => None,
    };
    let Some(((make, try_it), seconds, seed)) = parsed else {
        eprintln!("Usage: change_fuzz body|chunk|kind|position SECONDS [SEED]");
        return ExitCode::from(2);
    };
    let name = &arguments[0];
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = seed.and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(now.map_or(1, |now| now.as_nanos() as u64) | 1);
    let mut random = Random(seed);
    let (start, limit) = (Instant::now(), Duration::from_secs(seconds));
    let mut tried = 0u64;
    std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
    while start.elapsed() < limit {
        let bytes = make(&mut random);
        let begun = Instant::now();
        let survived = catch_unwind(AssertUnwindSafe(|| try_it(&bytes))).is_ok();
        if !survived || begun.elapsed() > Duration::from_secs(5) {
            let file = format!("fuzz-{name}-{seed}.bin");
            let written = std::fs::write(&file, &bytes);
            eprintln!("{name}: input {tried} of seed {seed} fails, see {file} ({written:?})");
            return ExitCode::FAILURE;
        }
        tried += 1;
    }
    println!("{name}: {tried} inputs in {seconds} s, seed {seed}: none fails");
    ExitCode::SUCCESS
}
