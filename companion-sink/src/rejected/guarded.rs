//! What a mistake in this program costs: the one event that meets it, not all that come after.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use change::trouble::Trouble;
use futures_util::FutureExt;

use crate::error::Code;
use crate::rejected::failure::Failure;

/// Does what an event asks for. If the program panics over it, the event is malformed to us. Where it was is in the log.
pub(crate) async fn guarded<T, E: From<Failure>>(
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    // What is half done belongs to the event alone, or to a transaction that is undone.
    let done = AssertUnwindSafe(work).catch_unwind().await;
    done.unwrap_or_else(|_| {
        let why =
            "companion-sink cannot process it: an internal error, to be reported with the log";
        Err(Failure::undecodable(why.into()).into())
    })
}

/// As [`guarded`], for a sink as a whole.
pub(crate) async fn guarded_sink<T>(
    work: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    let done = AssertUnwindSafe(work).catch_unwind().await;
    done.unwrap_or_else(|_| {
        Err(Trouble::new(
            Code::TargetRefuses,
            "an internal error stopped the sink",
            "Report this with the log, which says where; SIGHUP has it try again.",
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_failure_of_the_event() {
        let broken = async {
            let nothing: Option<u8> = std::hint::black_box(None);
            Ok::<u8, Failure>(nothing.unwrap())
        };
        let failure = guarded(broken).await.unwrap_err();
        assert_eq!(failure.code, Code::Undecodable);
        assert_eq!(guarded(async { Ok::<u8, Failure>(3) }).await.unwrap(), 3);
    }
}
