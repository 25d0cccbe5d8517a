//! The kernel log as any bytes: split into records, XIDs counted and grouped, nothing kept beyond its maximum.
#![no_main]

use std::sync::Arc;

use daemon::collect::kmsg::{Listener, Record, Splitter, Totals};
use daemon::xid::{Ledger, Parsed, Severities, Source};
use libfuzzer_sys::fuzz_target;

#[derive(Default)]
struct Book(Ledger);

impl Listener for Book {
    fn line(&mut self, record: Record<'_>, parsed: Parsed<'_>) {
        if let Parsed::Xid(seen) = parsed {
            self.0.see(Source::KernelLog, &seen, record.at, &Severities::default());
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut book = Book::default();
    let mut splitter = Splitter::new(Arc::new(Totals::default()), 0);
    let (first, second) = bytes.split_at(bytes.len() / 2);
    splitter.take(first, &mut book);
    splitter.take(second, &mut book);
    assert!(book.0.counts().count() <= 64 * 128);
});
