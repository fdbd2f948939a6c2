//! States of the sender.

/// What the sender is doing: `cdc_status().state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum State {
    Starting = 0,
    Unconfigured = 1,
    Streaming = 2,
    CatchingUp = 3,
    WaitingForKafka = 4,
    Halted = 5,
    Gap = 6,
    Fenced = 7,
    Paused = 8,
    Drained = 9,
    WaitingForStandby = 10,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Unconfigured => "unconfigured",
            State::Streaming => "streaming",
            State::CatchingUp => "catching_up",
            State::WaitingForKafka => "waiting_for_kafka",
            State::Halted => "halted",
            State::Gap => "gap",
            State::Fenced => "fenced",
            State::Paused => "paused",
            State::Drained => "drained",
            State::WaitingForStandby => "waiting_for_standby",
        }
    }

    /// Whether waiting for an acknowledgement makes sense: the sender goes on by itself.
    pub(crate) fn goes_on(self) -> bool {
        matches!(
            self,
            State::Starting
                | State::Streaming
                | State::CatchingUp
                | State::WaitingForKafka
                | State::WaitingForStandby
        )
    }

    pub(super) fn from_code(code: u32) -> State {
        const ALL: [State; 11] = [
            State::Starting,
            State::Unconfigured,
            State::Streaming,
            State::CatchingUp,
            State::WaitingForKafka,
            State::Halted,
            State::Gap,
            State::Fenced,
            State::Paused,
            State::Drained,
            State::WaitingForStandby,
        ];
        ALL.into_iter()
            .find(|state| *state as u32 == code)
            .unwrap_or(State::Starting)
    }
}
