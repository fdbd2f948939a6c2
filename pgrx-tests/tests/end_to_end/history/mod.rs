//! Questions to the history, asked of the real command: every answer is compared with what the source had at that moment.

mod http;
mod moments;
mod questions;
