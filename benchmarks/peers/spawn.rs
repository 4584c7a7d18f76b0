//! Rust's std: threads take turns from one counter; each turn runs PROGRAM to its end, with stdin,
//! stdout and stderr inherited. Usage: spawn-rust PROGRAM AT_A_TIME COUNT. Prints one line of JSON.

use std::process::Command;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, program, at_a_time, count] = arguments.as_slice() else {
        panic!("usage: spawn-rust PROGRAM AT_A_TIME COUNT");
    };
    let at_a_time: usize = at_a_time.parse().expect("AT_A_TIME is a number");
    let count: i64 = count.parse().expect("COUNT is a number");

    let left = AtomicI64::new(count);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                while left.fetch_sub(1, Ordering::Relaxed) > 0 {
                    let status = Command::new(program).status().expect("the program starts");
                    assert!(status.success(), "{program}: {status}");
                }
            });
        }
    });
    let rate = count as f64 / start.elapsed().as_secs_f64();
    println!("{{\"rate\": {rate:.1}, \"count\": {count}}}");
}
