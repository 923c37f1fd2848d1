//! TensorBoard event files: scalars in TFRecord framing (length, masked CRC32C, protobuf), written by hand.
//!
//! They hold wall times and rates, so they stay outside every digest. Format: tensorflow/core/lib/io/record_writer and
//! tensorflow/core/util/event.proto.

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Scalars of one process's part of a training run.
pub struct EventFile {
    file: BufWriter<File>,
    path: PathBuf,
}

impl EventFile {
    /// Starts a file for the steps after `step`, removing files of steps that will be repeated.
    pub fn create(folder: &Path, step: u64) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::io("create folder", folder))?;
        for entry in std::fs::read_dir(folder).map_err(Error::io("read folder", folder))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let from = name.rsplit('.').next().and_then(|s| s.parse::<u64>().ok());
            if from.is_some_and(|s| s >= step) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        let path = folder.join(format!("events.out.tfevents.{step:010}"));
        let file = File::create(&path).map_err(Error::io("create", &path))?;
        let mut events = Self { file: BufWriter::new(file), path };
        let mut version = Vec::new();
        double(&mut version, 1, now());
        bytes(&mut version, 3, b"brain.Event:2");
        events.record(&version)?;
        Ok(events)
    }

    /// Adds the numbers of one step and the rate so far.
    pub fn add(&mut self, step: u64, metrics: &BTreeMap<String, f64>, tokens_per_sec: f64) -> Result<()> {
        let mut summary = Vec::new();
        let rate = ("tokens_per_sec".to_string(), tokens_per_sec);
        for (name, value) in metrics.iter().map(|(n, v)| (n, *v)).chain([(&rate.0, rate.1)]) {
            let mut scalar = Vec::new();
            bytes(&mut scalar, 1, name.as_bytes());
            key(&mut scalar, 2, 5);
            scalar.extend_from_slice(&(value as f32).to_le_bytes());
            bytes(&mut summary, 1, &scalar);
        }
        let mut event = Vec::new();
        double(&mut event, 1, now());
        key(&mut event, 2, 0);
        varint(&mut event, step);
        bytes(&mut event, 5, &summary);
        self.record(&event)
    }

    fn record(&mut self, payload: &[u8]) -> Result<()> {
        let length = (payload.len() as u64).to_le_bytes();
        let mut framed = length.to_vec();
        framed.extend_from_slice(&masked_crc(&length).to_le_bytes());
        framed.extend_from_slice(payload);
        framed.extend_from_slice(&masked_crc(payload).to_le_bytes());
        self.file.write_all(&framed).and_then(|()| self.file.flush()).map_err(Error::io("write", &self.path))
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn key(out: &mut Vec<u8>, field: u64, wire: u64) {
    varint(out, field << 3 | wire);
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    key(out, field, 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn double(out: &mut Vec<u8>, field: u64, value: f64) {
    key(out, field, 1);
    out.extend_from_slice(&value.to_le_bytes());
}

/// CRC32C (Castagnoli, reflected 0x82f63b78), rotated and offset as TFRecord wants it.
fn masked_crc(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_published_one_of_castagnoli() {
        // RFC 3720 B.4: 32 bytes of zeros give 0x8a9136aa.
        let crc = masked_crc(&[0; 32]).wrapping_sub(0xa282_ead8).rotate_left(15);
        assert_eq!(crc, 0x8a91_36aa);
    }
}
