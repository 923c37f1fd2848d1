//! Real small files (see `tests/fixtures/warc/README.md`) and damage made from them.

use std::io::Write;

use super::*;

fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/../tests/fixtures/warc/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn all(file: &[u8]) -> Vec<Item<'_>> {
    records(file, 0, u64::MAX, &Limits::default()).collect()
}

fn intact<'i, 'a>(items: &'i [Item<'a>]) -> Vec<&'i Record<'a>> {
    items.iter().filter_map(|item| if let Item::Record(record) = item { Some(record) } else { None }).collect()
}

fn rules(items: &[Item<'_>]) -> Vec<&'static str> {
    items.iter().filter_map(|item| if let Item::Damaged(damage) = item { Some(damage.rule) } else { None }).collect()
}

fn record(uri: &str, block: &[u8]) -> Vec<u8> {
    let length = block.len();
    let mut bytes =
        format!("WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {uri}\r\nContent-Length: {length}\r\n\r\n")
            .into_bytes();
    bytes.extend_from_slice(block);
    bytes.extend_from_slice(b"\r\n\r\n");
    bytes
}

fn gzip(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd_frame(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 3).unwrap()
}

fn lz4_frame(bytes: &[u8]) -> Vec<u8> {
    let info = lz4_flex::frame::FrameInfo::new().content_checksum(true);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Pages that do not compress to nothing, of very different lengths.
fn page(index: usize) -> Vec<u8> {
    let mut state = index as u64 + 1;
    let words = 1 + (index * 7919) % 4000;
    let mut text = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    for _ in 0..words {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        text.extend_from_slice(format!("{:x} ", state >> 44).as_bytes());
    }
    text
}

fn crawl(pages: usize, pack: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    (0..pages).flat_map(|index| pack(&record(&format!("http://a.test/{index}"), &page(index)))).collect()
}

#[test]
fn every_form_of_a_file_gives_the_same_records() {
    let plain = fixture("warcio-example.warc");
    let whole = all(&plain);
    let slices = intact(&whole).into_iter().map(|r| &plain[r.offset as usize..(r.offset + r.length) as usize]);
    let gzipped: Vec<u8> = slices.clone().flat_map(|slice| gzip(slice, 6)).collect();
    let zstd: Vec<u8> = slices.clone().flat_map(zstd_frame).collect();
    let lz4: Vec<u8> = slices.flat_map(lz4_frame).collect();
    let forms = [
        (Compression::Plain, &plain),
        (Compression::Gzip, &gzipped),
        (Compression::Zstd, &zstd),
        (Compression::Lz4, &lz4),
    ];
    for (compression, file) in forms {
        assert_eq!(Compression::sniff(file), compression);
        let items = all(file);
        assert_eq!((intact(&items).len(), rules(&items).len()), (6, 0));
        for (found, wanted) in intact(&items).into_iter().zip(intact(&whole)) {
            let found = Record { offset: wanted.offset, length: wanted.length, ..found.clone() };
            assert_eq!(&found, wanted);
        }
    }
}

#[test]
fn header_values_are_read() {
    let file = fixture("warcio-example.warc.gz");
    let items = all(&file);
    let records = intact(&items);
    let types: Vec<&str> = records.iter().map(|record| &*record.warc_type).collect();
    assert_eq!(types, ["warcinfo", "warcinfo", "response", "request", "revisit", "request"]);
    let response = records[2];
    assert_eq!(response.target_uri.as_deref(), Some("http://example.com/"));
    assert_eq!(response.date.as_deref(), Some("2017-03-06T04:02:06Z"));
    assert_eq!(response.content_type.as_deref(), Some("application/http; msgtype=response"));
    assert_eq!(response.record_id.as_deref(), Some("urn:uuid:a9c51e3e-0221-11e7-bf66-0242ac120005"));
    assert!(response.block.starts_with(b"HTTP/1.1 200 OK"));
    assert!(response.payload_digest.as_deref().unwrap().starts_with("sha1:"));
}

#[test]
fn offset_and_length_are_enough_to_read_a_record_again() {
    for name in ["warcio-example.warc.gz", "warcio-example.warc", "warcio-example-bad.warc.gz.bad"] {
        let file = fixture(name);
        for item in all(&file) {
            let Item::Record(wanted) = item else { panic!("{item:?}") };
            let slice = &file[wanted.offset as usize..(wanted.offset + wanted.length) as usize];
            let again = all(slice);
            let found = intact(&again).into_iter().find(|r| r.offset_in_member == wanted.offset_in_member);
            assert_eq!(found.map(|r| &r.block), Some(&wanted.block), "{name}");
        }
    }
}

#[test]
fn one_member_may_hold_many_records() {
    let file = fixture("warcio-example-bad.warc.gz.bad");
    let items = all(&file);
    let records = intact(&items);
    assert_eq!(records.len(), 6);
    assert!(records.iter().all(|record| record.offset == 0));
    let inside: Vec<u64> = records.iter().map(|record| record.offset_in_member).collect();
    assert!(inside.is_sorted_by(|a, b| a < b), "{inside:?}");
    assert_eq!(records[5].length, file.len() as u64);
}

#[test]
fn members_may_cut_records_anywhere() {
    let text = crawl(30, <[u8]>::to_vec);
    let file: Vec<u8> = text.chunks(1000).flat_map(|part| gzip(part, 6)).collect();
    let whole = all(&text);
    let items = all(&file);
    assert_eq!(rules(&items), Vec::<&str>::new());
    let blocks = |items: &[Item<'_>]| -> Vec<Vec<u8>> { intact(items).iter().map(|r| r.block.to_vec()).collect() };
    assert_eq!(blocks(&items), blocks(&whole));
}

#[test]
fn members_of_line_breaks_or_of_nothing_are_no_damage() {
    let text = crawl(3, <[u8]>::to_vec);
    let (front, end) = text.split_at(text.len() - 2);
    for tail in [vec![gzip(b"", 6)], vec![gzip(end, 6)], vec![gzip(end, 6), gzip(b"", 6), gzip(b"\r\n", 6)]] {
        let file = [gzip(front, 6), tail.concat(), gzip(&record("http://b.test/", b"y"), 6), gzip(b"", 6)].concat();
        let items = all(&file);
        assert_eq!((intact(&items).len(), rules(&items)), (4, vec![]));
        assert_eq!(by_ranges(&file, 100), items);
    }
}

#[test]
fn the_extra_field_and_name_of_a_gzip_header_are_passed_over() {
    for (name, count) in [("jwarc-gzip_extra_sl.warc.gz", 1), ("resiliparse-block-sized-records.warc.gz", 3)] {
        let file = fixture(name);
        assert_eq!((intact(&all(&file)).len(), rules(&all(&file)).len()), (count, 0), "{name}");
    }
}

#[test]
fn arc_files_give_the_same_fields() {
    for name in ["warcio-example.arc", "warcio-example.arc.gz"] {
        let file = fixture(name);
        let items = all(&file);
        let [info, page] = intact(&items)[..] else { panic!("{items:?}") };
        assert_eq!((&*info.warc_type, &*page.warc_type), ("warcinfo", "response"));
        assert_eq!(page.target_uri.as_deref(), Some("http://example.com/"));
        assert_eq!(page.date.as_deref(), Some("2014-02-16T05:02:21Z"));
        assert_eq!(page.ip.as_deref(), Some("93.184.216.119"));
        assert_eq!(page.identified_payload_type.as_deref(), Some("text/html"));
        assert_eq!(page.content_type.as_deref(), Some("application/http; msgtype=response"));
    }
}

#[test]
fn odd_arc_lengths_are_damage_and_the_sound_record_is_kept() {
    let file = fixture("warcio-bad.arc");
    let items = all(&file);
    assert_eq!(rules(&items), ["bad_header"; 3]);
    assert_eq!(intact(&items).len(), 1);
}

#[test]
fn an_arc_line_of_any_length_is_passed_once() {
    let line = |length: usize| {
        let end = " 192.0.2.1 20200102030405 text/html 0\n";
        format!("http://a.test/{}{end}", "x".repeat(length - 14 - end.len()))
    };
    for length in 4080..4110 {
        for file in [format!("{}?\n{}{}", line(100), line(length), line(100)), format!("?\n{}", line(length))] {
            for file in [gzip(format!("{}{file}", line(100)).as_bytes(), 6), file.into_bytes()] {
                let items: Vec<_> = records(&file, 0, u64::MAX, &Limits::default()).take(9).collect();
                assert!(items.len() < 6, "{length}: {items:?}");
            }
        }
    }
}

#[test]
fn odd_uris_are_kept_readable() {
    let file = fixture("warcio-example-space-in-target-uri.warc.gz");
    assert_eq!(intact(&all(&file))[1].target_uri.as_deref(), Some("file:///example with spaces.png"));
    let file = fixture("warcio-example-wget-bad-target-uri.warc.gz");
    let items = all(&file);
    assert!(intact(&items).iter().filter_map(|r| r.target_uri.as_deref()).all(|uri| !uri.contains(['<', '>'])));
}

#[test]
fn lenient_headers_are_read() {
    let text = b"WARC/1.1\nwarc-type:  RESPONSE \nno colon here\nWARC-TARGET-URI: <http://a.test/\n\tlong>\n\
        WARC-Target-URI: http://second.test/\ncontent-length: 5\n\nhelloWARC/1.0\r\r\nContent-Length: 0\r\r\n\r\r\n";
    let items = all(text);
    let [first, second] = intact(&items)[..] else { panic!("{items:?}") };
    assert_eq!(first.warc_type, "response");
    assert_eq!(first.target_uri.as_deref(), Some("http://a.test/ long"));
    let start = memchr::memmem::find(text, b"WARC/1.0").unwrap();
    assert_eq!((&*first.block, second.offset as usize, second.block.len()), (&b"hello"[..], start, 0));
}

#[test]
fn a_file_cut_anywhere_keeps_the_records_before_the_cut_and_counts_the_cut() {
    for name in ["warcio-example.warc.gz", "warcio-example.warc", "warcio-example.arc.gz", "warcio-example-trunc.warc"]
    {
        let file = fixture(name);
        let whole = all(&file);
        let units: Vec<&Record<'_>> = intact(&whole);
        for cut in 0..file.len() {
            let items = all(&file[..cut]);
            let before = |r: &&&Record<'_>| r.offset + r.length <= cut as u64;
            let wanted: Vec<_> = units.iter().filter(before).map(|r| (r.offset, &r.block)).collect();
            let found: Vec<_> = intact(&items).into_iter().map(|r| (r.offset, &r.block)).collect();
            assert_eq!(found[..wanted.len()], wanted[..], "{name} cut at {cut}");
            let clean = cut == 0 || units.iter().any(|r| (r.offset + r.length) as usize == cut);
            let in_line_breaks = found.len() > wanted.len() && !name.ends_with("gz");
            assert!(clean || in_line_breaks || !rules(&items).is_empty(), "{name} cut at {cut}: {items:?}");
        }
    }
}

#[test]
fn one_big_member_cut_anywhere_keeps_what_was_decoded() {
    let file = fixture("warcio-example-bad.warc.gz.bad");
    let mut most = 0;
    for cut in 1..file.len() {
        let items = all(&file[..cut]);
        assert_eq!(rules(&items), ["truncated_member"], "cut at {cut}");
        most = most.max(intact(&items).len());
    }
    assert_eq!(most, 5);
}

#[test]
fn a_flipped_byte_costs_at_most_the_record_it_is_in() {
    let file = crawl(6, |bytes| gzip(bytes, 6));
    let whole = all(&file);
    for at in (0..file.len()).step_by(37) {
        let mut bad = file.clone();
        bad[at] ^= 0x55;
        let items = all(&bad);
        let found = intact(&items);
        for wanted in intact(&whole) {
            let hit = (wanted.offset..wanted.offset + wanted.length).contains(&(at as u64));
            let same = found.iter().any(|r| r.offset == wanted.offset && r.block == wanted.block);
            assert!(hit || same, "byte {at}: {} lost, {:?}", wanted.offset, rules(&items));
        }
    }
}

#[test]
fn garbage_between_records_is_counted_and_passed_over() {
    for pack in [|bytes: &[u8]| gzip(bytes, 6), zstd_frame, lz4_frame, |bytes: &[u8]| bytes.to_vec()] {
        let parts: Vec<Vec<u8>> = (0..3).map(|n| pack(&record(&format!("http://a.test/{n}"), &page(n)))).collect();
        let garbage: &[u8] = b"\x1f\x8b\x08\x00 not a member \x28\xb5\x2f\xfd WARC/ neither";
        let [a, b, c] = &parts[..] else { unreachable!() };
        let file = [&a[..], garbage, b, c, garbage].concat();
        let items = all(&file);
        assert_eq!((intact(&items).len(), rules(&items)), (3, vec!["garbage"; 2]), "{items:?}");
        let front = [&b"cut off at the front "[..], garbage, a, b].concat();
        assert_eq!((intact(&all(&front)).len(), rules(&all(&front))), (2, vec!["garbage"]));
    }
}

#[test]
fn a_wrong_content_length_is_damage_and_swallows_nothing() {
    let good = |n: usize| record(&format!("http://a.test/{n}"), b"0123456789");
    for wrong in ["Content-Length: 4", "Content-Length: 90", "Content-Length: 9999999999", "Content-Length: -1", "X: 1"]
    {
        let bad = String::from_utf8(good(1)).unwrap().replace("Content-Length: 10", wrong).into_bytes();
        let plain = [good(0), bad.clone(), good(2)].concat();
        let members = [gzip(&good(0), 6), gzip(&bad, 6), gzip(&good(2), 6)].concat();
        for file in [plain.clone(), gzip(&plain, 6), zstd_frame(&plain), lz4_frame(&plain), members] {
            let items = all(&file);
            let uris: Vec<_> = intact(&items).iter().filter_map(|r| r.target_uri.clone()).collect();
            assert_eq!(uris, ["http://a.test/0", "http://a.test/2"], "{wrong}: {items:?}");
            assert_eq!(rules(&items).len(), 1, "{wrong}: {items:?}");
        }
    }
}

#[test]
fn a_bomb_and_an_oversized_block_are_refused_and_the_next_record_is_read() {
    let bomb = gzip(&record("http://bomb.test/", &vec![0; 20 << 20]), 9);
    let file = [bomb, gzip(&record("http://a.test/", b"x"), 6)].concat();
    let items = all(&file);
    assert_eq!((rules(&items), intact(&items).len()), (vec!["decompression_bomb"], 1));
    let limits = Limits { max_block_bytes: 100, ..Limits::default() };
    for pack in [|bytes: &[u8]| gzip(bytes, 6), |bytes: &[u8]| bytes.to_vec()] {
        let file = [pack(&record("http://a.test/", &[b'x'; 101])), pack(&record("http://b.test/", b"y"))].concat();
        let items: Vec<_> = records(&file, 0, u64::MAX, &limits).collect();
        assert_eq!((rules(&items), intact(&items).len()), (vec!["too_large"], 1));
    }
}

/// All items over ranges of `step` bytes; also checks that exits meet entries.
fn by_ranges(file: &[u8], step: usize) -> Vec<Item<'_>> {
    let mut items = Vec::new();
    let mut exit = 0;
    for start in (0..file.len()).step_by(step) {
        let mut range = records(file, start as u64, (start + step) as u64, &Limits::default());
        assert_eq!(range.entry(), exit, "range at {start}, step {step}");
        items.extend(range.by_ref());
        exit = range.exit().unwrap();
    }
    items
}

#[test]
fn ranges_of_any_size_give_the_same_items_as_one() {
    let names = [
        "warcio-example.warc.gz",
        "warcio-example.warc",
        "warcio-example.arc",
        "warcio-example-trunc.warc",
        "warcio-bad.arc",
        "warcio-example-bad.warc.gz.bad",
    ];
    for file in names.map(fixture).iter().chain(&[
        crawl(12, |bytes| gzip(bytes, 6)),
        crawl(12, zstd_frame),
        crawl(12, lz4_frame),
    ]) {
        let whole = all(file);
        for step in [7, 100, 1000, 5000, file.len()] {
            if file.len() / step < 700 {
                assert_eq!(by_ranges(file, step), whole, "step {step}");
            }
        }
    }
}

#[test]
fn ranges_agree_on_damaged_files() {
    let file = crawl(8, |bytes| gzip(bytes, 6));
    for at in (0..file.len()).step_by(5003) {
        let mut bad = file.clone();
        bad[at] ^= 0x55;
        assert_eq!(by_ranges(&bad, 3000), all(&bad), "byte {at}");
    }
}

#[test]
fn a_warc_inside_a_page_is_not_taken_for_the_file_itself() {
    // Level 0 stores the inner members verbatim in the outer one.
    let inner = crawl(40, |bytes| gzip(bytes, 6));
    let page = record("http://a.test/inner.warc.gz", &inner);
    let file =
        [gzip(&record("http://a.test/", b"x"), 6), gzip(&page, 0), gzip(&record("http://b.test/", b"y"), 6)].concat();
    assert_eq!(intact(&all(&file)).len(), 3);
    assert_eq!(by_ranges(&file, 1000), all(&file));
    // Without a look-back the ranges are wrong, and entry and exit show it and mend it.
    let limits = Limits { lookback_bytes: 0, ..Limits::default() };
    let middle = (file.len() / 2) as u64;
    let mut first = records(&file, 0, middle, &limits);
    let mut items: Vec<_> = first.by_ref().collect();
    let exit = first.exit().unwrap();
    assert_ne!(records(&file, middle, u64::MAX, &limits).entry(), exit);
    items.extend(records_from(&file, exit, u64::MAX, &limits));
    assert_eq!(items, all(&file));
}

#[test]
fn a_zstd_file_with_a_dictionary_is_read() {
    let text = crawl(20, <[u8]>::to_vec);
    let dictionary = text[..4000].to_vec();
    let mut encoder = zstd::bulk::Compressor::with_dictionary(3, &dictionary).unwrap();
    let mut file = [&[0x5d, 0x2a, 0x4d, 0x18][..], &4000_u32.to_le_bytes(), &dictionary].concat();
    for index in 0..20 {
        let member = encoder.compress(&record(&format!("http://a.test/{index}"), &page(index))).unwrap();
        file.extend(member);
    }
    let items = all(&file);
    assert_eq!((intact(&items).len(), rules(&items).len()), (20, 0), "{:?}", rules(&items));
    assert_eq!(intact(&items)[0].offset, 4008);
    assert_eq!(by_ranges(&file, 3000), items);
}

#[test]
fn nothing_and_noise_give_no_records_and_no_panic() {
    assert_eq!(all(b""), []);
    let mut state = 1_u64;
    for length in 1..300 {
        let mut noise: Vec<u8> = Vec::new();
        for _ in 0..length {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            noise.push((state >> 56) as u8);
        }
        for front in [&[][..], &[0x1f, 0x8b, 8, 0], &[0x28, 0xb5, 0x2f, 0xfd], b"WARC/1.0\r\n", b"\x04\x22\x4d\x18"] {
            let file = [front, &noise].concat();
            assert_eq!((intact(&all(&file)).len(), rules(&all(&file)).is_empty()), (0, false));
        }
    }
}
