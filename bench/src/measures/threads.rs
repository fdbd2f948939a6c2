//! What the threads of a process cost: time on a core, and how often they were woken.

use std::fs;

use serde_json::{Value, json};

use crate::measures::median::rounded;

/// One thread of a process, since it began or since an earlier look.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Thread {
    /// Its number.
    pub id: u32,
    /// Its name, as the kernel shows it.
    pub name: String,
    /// Seconds on a core (utime and stime, in steps of 10 ms).
    pub cpu_s: f64,
    /// Times it went to sleep by itself, which is how often it was woken (voluntary_ctxt_switches).
    pub wakeups: u64,
}

/// The threads of a process; those that end while one looks are left out.
///
/// # Panics
/// When there is no such process.
pub(crate) fn of(pid: u32) -> Vec<Thread> {
    let folder = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{folder}: {e}"));
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    ids.filter_map(|id| {
        let read = |name: &str| fs::read_to_string(format!("{folder}/{id}/{name}")).ok();
        let name = read("comm")?.trim().to_owned();
        let (cpu_s, wakeups) = (cpu_s(&read("stat")?)?, wakeups(&read("status")?)?);
        Some(Thread {
            id,
            name,
            cpu_s,
            wakeups,
        })
    })
    .collect()
}

/// What each thread of `after` has used since `before`.
pub(crate) fn since(before: &[Thread], after: &[Thread]) -> Vec<Thread> {
    let used = after.iter().map(|now| {
        let then = before.iter().find(|then| then.id == now.id);
        Thread {
            cpu_s: now.cpu_s - then.map_or(0.0, |then| then.cpu_s),
            wakeups: now.wakeups - then.map_or(0, |then| then.wakeups),
            ..now.clone()
        }
    });
    used.collect()
}

/// Seconds on a core of a whole process, threads that have ended included.
///
/// # Panics
/// When there is no such process.
pub(crate) fn process_cpu_s(pid: u32) -> f64 {
    let file = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file}: {e}"));
    cpu_s(&stat).unwrap_or_else(|| panic!("{file}: {stat}"))
}

/// Seconds on a core of all of them.
pub(crate) fn total_cpu_s(threads: &[Thread]) -> f64 {
    rounded(threads.iter().map(|thread| thread.cpu_s).sum())
}

/// Wake-ups of all of them.
pub(crate) fn total_wakeups(threads: &[Thread]) -> u64 {
    threads.iter().map(|thread| thread.wakeups).sum()
}

/// As JSON, one entry per thread: several may have the same name.
pub(crate) fn json(threads: &[Thread]) -> Value {
    let entries = threads.iter().map(|thread| {
        json!({"name": thread.name, "cpu_s": rounded(thread.cpu_s), "wakeups": thread.wakeups})
    });
    entries.collect()
}

/// Seconds on a core by the line that the kernel has for a process or thread (proc_pid_stat(5)).
pub(crate) fn cpu_s(stat: &str) -> Option<f64> {
    // Fields 14 and 15; the name, in parentheses, may contain anything.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    // SAFETY: sysconf only takes a number.
    let ticks_per_s = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Some((user + system) as f64 / ticks_per_s as f64)
}

fn wakeups(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    #[test]
    fn a_thread_that_works_and_sleeps_is_seen() {
        const NAME: &str = "at work (x)";
        let before = of(std::process::id());
        let seen = |what: &str, is_reached: &dyn Fn(&Thread) -> bool| {
            pg_cdc_tests::wait_until(what, Duration::from_secs(60), || {
                let used = since(&before, &of(std::process::id()));
                match used.into_iter().find(|thread| thread.name == NAME) {
                    Some(thread) if is_reached(&thread) => Ok(thread),
                    other => Err(format!("{other:?}")),
                }
            })
        };
        // Not a scope, which would wait for the thread without end where the test fails.
        static ENOUGH: AtomicBool = AtomicBool::new(false);
        static DONE: AtomicBool = AtomicBool::new(false);
        let worker = std::thread::Builder::new().name(NAME.to_owned());
        let worker = worker.spawn(|| {
            while !ENOUGH.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
            while !DONE.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let at_work = seen("work", &|thread| thread.cpu_s >= 0.05);
        ENOUGH.store(true, Ordering::Relaxed);
        seen("sleep", &|thread| thread.wakeups >= at_work.wakeups + 20);
        DONE.store(true, Ordering::Relaxed);
        worker.expect("a thread").join().expect("the thread's end");
        assert!(process_cpu_s(std::process::id()) >= at_work.cpu_s);
    }
}
