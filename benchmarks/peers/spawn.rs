//! Rust's std: threads take turns from one counter; each turn runs PROGRAM to its end, with stdin,
//! stdout and stderr inherited; or, with the word "captured" at the end, PROGRAM with that argument, with
//! stdin from /dev/null, stdout and stderr captured. Usage: spawn-rust PROGRAM AT_A_TIME COUNT [captured].
//! Prints one line of JSON.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let (program, at_a_time, count, captured) = match arguments.as_slice() {
        [_, program, at_a_time, count] => (program, at_a_time, count, false),
        [_, program, at_a_time, count, word] if word == "captured" => (program, at_a_time, count, true),
        _ => panic!("usage: spawn-rust PROGRAM AT_A_TIME COUNT [captured]"),
    };
    let at_a_time: usize = at_a_time.parse().expect("AT_A_TIME is a number");
    let count: i64 = count.parse().expect("COUNT is a number");

    let left = AtomicI64::new(count);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                while left.fetch_sub(1, Ordering::Relaxed) > 0 {
                    let mut command = Command::new(program);
                    let status = if captured {
                        command.arg("captured").stdin(Stdio::null());
                        let output = command.output().expect("the program starts");
                        assert_eq!(output.stdout, b"captured\n");
                        output.status
                    } else {
                        command.status().expect("the program starts")
                    };
                    assert!(status.success(), "{program}: {status}");
                }
            });
        }
    });
    let rate = count as f64 / start.elapsed().as_secs_f64();
    println!("{{\"rate\": {rate:.1}, \"count\": {count}}}");
}
