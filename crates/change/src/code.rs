//! Every error code of pg_cdc and companion-sink. Each has its page in `docs/errors`, and is never used again for something
//! else.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// The statement is refused, or its session ends; of companion-sink, the event is refused.
    Refuse,
    /// Nothing stops.
    Warn,
    /// It is tried again, without end, with growing pauses.
    Retry,
    /// Sender, snapshot or sink stops until a person has acted; the others go on.
    Halt,
    /// It waits until the other instance is gone.
    StandBy,
    /// One topic is put aside; the others go on.
    SetAside,
}

impl Recovery {
    /// As the list of codes in `docs/errors` has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Recovery::Refuse => "refused",
            Recovery::Warn => "a warning",
            Recovery::Retry => "tried again",
            Recovery::Halt => "halted",
            Recovery::StandBy => "stands by",
            Recovery::SetAside => "put aside",
        }
    }
}

/// SQLSTATE `object_not_in_prerequisite_state`, of codes for which there is no better one.
const NOT_IN_PREREQUISITE_STATE: &str = "55000";

/// Makes the enum out of lines `CODE Name Recovery "title" "SQLSTATE"`; without the last one it is 55000.
macro_rules! codes {
    ($($text:ident $name:ident $recovery:ident $title:literal $($sqlstate:literal)?;)*) => {
        /// A code, `CDCnnnn`. The number is the code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "&'static str")]
        #[repr(u16)]
        pub enum Code {
            $(#[doc = $title] $name = number(stringify!($text)),)*
        }

        impl Code {
            /// All of them, in their order.
            pub const ALL: &'static [Code] = &[$(Code::$name),*];

            /// `CDCnnnn`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Code::$name => stringify!($text),)*
                }
            }

            /// What it means, in a few words: the title of its page.
            pub const fn title(self) -> &'static str {
                match self {
                    $(Code::$name => $title,)*
                }
            }

            /// What happens next.
            pub const fn recovery(self) -> Recovery {
                match self {
                    $(Code::$name => Recovery::$recovery,)*
                }
            }

            /// The SQLSTATE of an ERROR with this code.
            pub const fn sqlstate(self) -> &'static str {
                match self {
                    $(Code::$name => sqlstate!($($sqlstate)?),)*
                }
            }
        }
    };
}

macro_rules! sqlstate {
    () => {
        NOT_IN_PREREQUISITE_STATE
    };
    ($sqlstate:literal) => {
        $sqlstate
    };
}

codes! {
    // Installation and settings.
    CDC0001 NotLoaded Refuse "pg_cdc is not loaded";
    CDC0003 NoBrokers Refuse "cdc.brokers is not set";
    CDC0004 NoFreeSlot Halt "no free replication slot";
    CDC0005 NoFreeWorker Refuse "no free worker" "53400";
    CDC0006 WalLevelMinimal Halt "wal_level is minimal";
    CDC0007 SenderNotReady Refuse "sender is not ready";
    CDC0008 FileExposed Halt "file has group or world access";
    CDC0009 PropertyRefused Halt "property cannot be set";
    CDC0010 WalLimitUnsafe Warn "WAL limit is unsafe";
    // Tracking.
    CDC0101 NotTrackable Refuse "cannot track relation" "22023";
    CDC0102 NotEntitled Refuse "must be owner of table; must be cdc_admin to use topic" "42501";
    CDC0103 NoSuchColumn Refuse "column does not exist" "42703";
    CDC0104 NoKey Warn "table has no key";
    CDC0105 KeyDeferrable Refuse "key is deferrable" "22023";
    CDC0106 TopicTaken Refuse "topic belongs to another table" "42710";
    CDC0107 TableIsCopy Warn "table is a copy and not captured";
    CDC0108 NotATopicName Refuse "not a topic name" "42602";
    CDC0109 TopicCollides Refuse "topic collides in Kafka" "42710";
    CDC0110 OptionsRefused Refuse "options contradict each other or are unknown" "22023";
    CDC0111 FilterNotAllowed Refuse "filter is not allowed" "0A000";
    CDC0112 IsPartition Refuse "cannot track a partition" "22023";
    CDC0113 NoMaskKey Refuse "mask key file missing" "F0000";
    CDC0114 TriggerUnsealed Warn "trigger was not made by cdc_track()";
    CDC0115 TriggerNameTaken Refuse "table has another trigger of that name" "42710";
    CDC0116 TriggerRenamed Refuse "cannot rename a trigger of pg_cdc";
    CDC0117 AdminRoleExists Warn "role cdc_admin was there already";
    CDC0118 OptionColumnMissing Refuse "an option names a column that is not there";
    CDC0119 ColumnNeeded Refuse "cannot drop a column that an option needs" "2BP01";
    CDC0120 FilterUnfit Refuse "a filter does not fit its table";
    CDC0121 TriggersPending Refuse "options cannot follow their columns while deferred triggers are pending" "55006";
    CDC0126 TooManyTopics Refuse "too many topics" "53400";
    CDC0127 EmittedTooLarge Refuse "emitted event is too large" "54000";
    // Capture.
    CDC0201 CaptureOutOfMemory Refuse "out of memory while capturing" "53200";
    CDC0202 NothingCaptured Warn "changes of tracked tables are not captured";
    CDC0203 TableNotCaptured Warn "changes of a table are not captured";
    CDC0204 ValueStubbed Warn "a value is shipped as a stub";
    CDC0205 MessageForged Warn "forged or replayed message ignored";
    CDC0206 TransactionIncomplete Halt "transaction is incomplete";
    CDC0207 PartitionUnlogged Warn "a partition is unlogged";
    CDC0208 RowsNotRepaired Warn "rows changed without events, and no snapshot can follow";
    CDC0210 ComputedFromHidden Warn "a generated column is computed from one that is masked or left out";
    // Kafka.
    CDC0301 BrokersUnreachable Retry "brokers unreachable";
    CDC0302 AuthenticationFailed Retry "authentication failed";
    CDC0303 NotAuthorised Retry "not authorised";
    CDC0304 TopicMissing Retry "topic is missing";
    CDC0305 EventTooLarge Halt "event is too large for its topic";
    CDC0306 PartitionsChanged Halt "partitions of a topic changed";
    CDC0307 TopicLost Halt "topic was deleted or made anew";
    CDC0308 WritesRefused Retry "broker refuses writes";
    CDC0310 KafkaTransactionTimedOut Retry "Kafka transaction timed out";
    CDC0311 TopicCompacted Warn "topic keeps only the last event of each key";
    CDC0312 TopicNotMade SetAside "topic cannot be made, and is put aside";
    CDC0313 EventDoesNotFit SetAside "event does not fit into its topic, which is put aside";
    CDC0314 TopicTakesSmallEvents Warn "topic takes small events only";
    CDC0315 TransactionOutOfMemory Halt "not enough memory for a transaction";
    CDC0316 OutOfMemory Refuse "out of memory" "53200";
    CDC0317 EventRefused SetAside "event is refused by its topic, which is put aside";
    CDC0318 TopicUnusable SetAside "topic cannot be used, and is put aside";
    CDC0319 SenderPanicked Halt "a thread of the sender panicked";
    CDC0320 NoThread Halt "no thread or descriptor for the sender";
    // WAL and position.
    CDC0401 WalGone Halt "WAL is gone";
    CDC0402 WalDamaged Halt "WAL is damaged";
    CDC0404 Fenced Halt "fenced";
    CDC0405 PositionNotTrusted Halt "position or identity cannot be trusted" "58030";
    CDC0406 SourceNameTaken Halt "source name is taken";
    CDC0407 PositionForeign Halt "position is not in this server's history";
    CDC0408 WalNearLimit Warn "WAL held comes near its limit" "53100";
    CDC0410 SlotNotHeld Halt "slot cannot be held";
    // Snapshots.
    CDC0501 NoSnapshotKey Refuse "no key to snapshot by";
    CDC0502 OptionsChanged Retry "options changed while a chunk was read" "40001";
    CDC0503 NoSuchSnapshot Refuse "no snapshot of this number" "42704";
    CDC0504 SnapshotFailed Halt "snapshot failed";
    CDC0505 NotTracked Refuse "table is not tracked";
    CDC0506 KeysOutOfOrder Halt "rows do not come in the order of their key" "XX001";
    CDC0507 ChunkCrashes Halt "reading a chunk of a snapshot crashed the server";
    CDC0508 TooManySnapshots Refuse "table has too many unfinished snapshots" "53400";
    // Orders.
    CDC0601 TimedOut Refuse "timed out";
    CDC0602 OwnTransaction Refuse "cannot wait for this transaction itself" "25001";
    CDC0603 NothingToAccept Refuse "nothing to accept";
    CDC0604 WrongState Refuse "not possible in this state";
    CDC0605 SourceIdDiffers Refuse "source id differs" "22023";
    CDC0606 OrderUnusable Refuse "order is not usable" "22023";
    CDC0607 TopicOfOthers Refuse "topic is another database's" "42501";
    CDC0608 TopicNotHeldBack Refuse "topic is not held back";
    CDC0609 EventsGivenUp Warn "events of a topic are given up";
    CDC0610 InTransactionBlock Refuse "cannot run inside a transaction block" "25001";
    // companion-sink.
    CDC1001 Configuration Halt "unknown key; wrong configuration";
    CDC1002 SecretFile Halt "secret file can be read by others";
    CDC1003 Unreachable Retry "target unreachable";
    CDC1004 TargetRefuses Halt "target refuses everything";
    CDC1005 Undecodable Refuse "undecodable event";
    CDC1006 Rejected Refuse "a rule rejects the event";
    CDC1007 ValueRefused Refuse "value refused";
    CDC1008 LogTruncated Halt "topic no longer reaches back";
    CDC1009 OtherInstance StandBy "another instance is active";
    CDC1010 Poison Halt "an event stops the consistent replica";
    CDC1011 SchemaChange Halt "schema change cannot be followed";
    CDC1012 Foreign Refuse "event of a table that its topic does not belong to";
    CDC1013 NotAllowed Refuse "event for a table that the sink may not write";
    CDC1014 Unbelievable Refuse "event that claims a place which its source has not come to";
    CDC1015 EffectRefused Refuse "an effect is refused";
    CDC1018 CollectionRefused Refuse "a collection of a history is refused";
}

impl Code {
    /// The number in `CDCnnnn`.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The code of this number.
    pub fn of_number(number: u16) -> Option<Code> {
        let all = Code::ALL.iter().copied();
        all.into_iter().find(|code| code.number() == number)
    }
}

/// The number in `CDCnnnn`, while this is compiled.
const fn number(text: &str) -> u16 {
    let text = text.as_bytes();
    assert!(text.len() == 7, "not CDCnnnn");
    let mut number = 0;
    let mut at = 3;
    while at < text.len() {
        assert!(text[at].is_ascii_digit(), "not CDCnnnn");
        number = number * 10 + (text[at] - b'0') as u16;
        at += 1;
    }
    number
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<Code> for &'static str {
    fn from(code: Code) -> Self {
        code.as_str()
    }
}

/// A text that is no code of this version.
#[derive(Debug)]
pub struct UnknownCode(String);

impl fmt::Display for UnknownCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" is no error code of this version", self.0)
    }
}

impl std::error::Error for UnknownCode {}

impl TryFrom<String> for Code {
    type Error = UnknownCode;

    fn try_from(text: String) -> Result<Code, UnknownCode> {
        let mut all = Code::ALL.iter().copied();
        all.find(|code| code.as_str() == text)
            .ok_or(UnknownCode(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_written_as_they_are_read() {
        for code in Code::ALL.iter().copied() {
            assert_eq!(Code::of_number(code.number()), Some(code));
            assert_eq!(Code::try_from(code.to_string()).ok(), Some(code));
            let written = serde_json::to_string(&code).expect("JSON");
            assert_eq!(written, format!("\"{code}\""));
            assert_eq!(serde_json::from_str::<Code>(&written).ok(), Some(code));
        }
        assert_eq!(Code::NotLoaded.to_string(), "CDC0001");
        assert!(serde_json::from_str::<Code>("\"CDC0000\"").is_err());
    }

    #[test]
    fn codes_stand_in_their_order_and_sqlstates_have_five_characters() {
        assert!(Code::ALL.is_sorted());
        for code in Code::ALL {
            assert_eq!(code.sqlstate().len(), 5, "{code}");
        }
        assert_eq!(Code::NotLoaded.sqlstate(), "55000");
        assert_eq!(Code::OutOfMemory.sqlstate(), "53200");
    }
}
