//! TensorBoard event files, written by hand: a file is a sequence of TFRecords, each an `Event` protobuf, and scalars need
//! five fields of it. Nothing is read back here, and nothing but scalars is written.
//!
//! A record is `u64 length | masked crc32c of the length | data | masked crc32c of the data`, little-endian, where masked
//! means rotated right by 15 bits plus 0xa282ead8. The messages (tensorflow/core/util/event.proto, framework/summary.proto):
//! ```text
//! Event   { 1: double wall_time, 2: int64 step, 3: string file_version | 5: Summary summary }
//! Summary { 1: repeated Value value }      Value { 1: string tag, 2: float simple_value }
//! ```

/// The file's name inside a run folder; TensorBoard looks for `tfevents` in it.
pub(crate) const FILE: &str = "events.out.tfevents.darts";

/// The record that every event file begins with.
pub(crate) fn header(wall_time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    double(&mut event, 1, wall_time);
    bytes(&mut event, 3, b"brain.Event:2");
    record(&event)
}

/// One record with the `scalars` of one step, as (tag, value).
pub(crate) fn scalars(wall_time: f64, step: u64, scalars: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in scalars {
        let mut message = Vec::new();
        bytes(&mut message, 1, tag.as_bytes());
        key(&mut message, 2, WireType::Fixed32);
        message.extend_from_slice(&(*value as f32).to_le_bytes());
        bytes(&mut summary, 1, &message);
    }
    let mut event = Vec::new();
    double(&mut event, 1, wall_time);
    key(&mut event, 2, WireType::Varint);
    varint(&mut event, step);
    bytes(&mut event, 5, &summary);
    record(&event)
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + 16);
    out.extend_from_slice(&length);
    out.extend_from_slice(&masked_crc(&length).to_le_bytes());
    out.extend_from_slice(data);
    out.extend_from_slice(&masked_crc(data).to_le_bytes());
    out
}

fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[derive(Clone, Copy)]
enum WireType {
    Varint = 0,
    Fixed64 = 1,
    Bytes = 2,
    Fixed32 = 5,
}

fn key(out: &mut Vec<u8>, field: u64, wire: WireType) {
    varint(out, field << 3 | wire as u64);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn double(out: &mut Vec<u8>, field: u64, value: f64) {
    key(out, field, WireType::Fixed64);
    out.extend_from_slice(&value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    key(out, field, WireType::Bytes);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    enum Field<'a> {
        Varint(u64),
        Fixed64([u8; 8]),
        Bytes(&'a [u8]),
        Fixed32([u8; 4]),
    }

    fn read_varint(data: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = data[0];
            *data = &data[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return value;
            }
            shift += 7;
        }
    }

    fn take<'a>(data: &mut &'a [u8], n: usize) -> &'a [u8] {
        let (head, tail) = data.split_at(n);
        *data = tail;
        head
    }

    fn message(mut data: &[u8]) -> Vec<(u64, Field<'_>)> {
        let mut fields = Vec::new();
        while !data.is_empty() {
            let key = read_varint(&mut data);
            let field = match key & 7 {
                0 => Field::Varint(read_varint(&mut data)),
                1 => Field::Fixed64(take(&mut data, 8).try_into().unwrap()),
                2 => {
                    let n = read_varint(&mut data) as usize;
                    Field::Bytes(take(&mut data, n))
                }
                5 => Field::Fixed32(take(&mut data, 4).try_into().unwrap()),
                other => panic!("wire type {other}"),
            };
            fields.push((key >> 3, field));
        }
        fields
    }

    /// A bitwise crc32c (polynomial 0x82f63b78), so that the framing is checked against something other than itself.
    fn masked_crc_by_bits(data: &[u8]) -> u32 {
        let mut crc = !0u32;
        for byte in data {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
            }
        }
        (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
    }

    fn unframe(file: &[u8]) -> Vec<&[u8]> {
        let (mut rest, mut records) = (file, Vec::new());
        while !rest.is_empty() {
            let length = take(&mut rest, 8);
            assert_eq!(take(&mut rest, 4), masked_crc_by_bits(length).to_le_bytes());
            let data = take(&mut rest, u64::from_le_bytes(length.try_into().unwrap()) as usize);
            assert_eq!(take(&mut rest, 4), masked_crc_by_bits(data).to_le_bytes());
            records.push(data);
        }
        records
    }

    #[test]
    fn a_parser_written_from_the_format_reads_the_scalars_back() {
        let mut file = header(1.5);
        file.extend(scalars(2.5, 300, &[("train/loss", 0.75), ("lr", 0.025)]));
        let records = unframe(&file);
        assert_eq!(
            message(records[0]),
            [(1, Field::Fixed64(1.5f64.to_le_bytes())), (3, Field::Bytes(b"brain.Event:2"))]
        );
        let event = message(records[1]);
        assert_eq!(event[..2], [(1, Field::Fixed64(2.5f64.to_le_bytes())), (2, Field::Varint(300))]);
        let (5, Field::Bytes(summary)) = event[2] else { panic!("{event:?}") };
        let values: Vec<_> = message(summary)
            .into_iter()
            .map(|(field, value)| match (field, value) {
                (1, Field::Bytes(value)) => message(value),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(values[0], [(1, Field::Bytes(b"train/loss")), (2, Field::Fixed32(0.75f32.to_le_bytes()))]);
        assert_eq!(values[1], [(1, Field::Bytes(b"lr")), (2, Field::Fixed32(0.025f32.to_le_bytes()))]);
    }
}
