//! The measurements, as they are in the files.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use uuid::Uuid;

use crate::messages::ReadingReported;

/// The name space of the readings' ids: they are UUIDs of version 5 (RFC 9562, section 5.5) over `<file>:<row>`.
const IDS: Uuid = Uuid::from_u128(0x6d73_676b_6974_5f64_8576_6963_655f_6877);

/// The columns that the header names. Each row has one field more, in front: its number.
const COLUMNS: [&str; 7] = ["date", "Temperature", "Humidity", "Light", "CO2", "HumidityRatio", "Occupancy"];

/// One file of the data set: one period, one device.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// The device as which the period is replayed.
    pub device_id: &'static str,
    /// The file's name.
    pub file: &'static str,
    /// What it holds. Part of the program, so that it runs from anywhere.
    pub text: &'static str,
}

/// The three periods, in the order of their devices.
pub const SOURCES: [Source; 3] = [
    Source { device_id: "office-a", file: "datatest.txt", text: include_str!("../../data/datatest.txt") },
    Source {
        device_id: "office-b",
        file: "datatraining.txt",
        text: include_str!("../../data/datatraining.txt"),
    },
    Source { device_id: "office-c", file: "datatest2.txt", text: include_str!("../../data/datatest2.txt") },
];

/// One measured row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The number that the file gives the row.
    pub number: u32,
    /// The id under which it is published: the same in every replay.
    pub id: Uuid,
    /// What the device reports.
    pub reading: ReadingReported,
    /// The humidity ratio that the data set's authors derived. Not sent; kept to check ours against it.
    pub humidity_ratio: f64,
}

/// A row that is not what the format says.
#[derive(Debug, thiserror::Error)]
#[error("{file}, line {line}: {problem}")]
pub struct DatasetError {
    /// Which file.
    pub file: String,
    /// Which line, from 1; 0 where the text as a whole cannot be read.
    pub line: u64,
    /// What is wrong.
    pub problem: String,
}

impl Source {
    /// Reads all rows.
    ///
    /// # Errors
    /// Names the file, the line and the field of the first row that does not follow the format.
    pub fn rows(&self) -> Result<Vec<Row>, DatasetError> {
        let mut lines =
            csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(self.text.as_bytes());
        let mut rows = Vec::new();
        for (index, record) in lines.records().enumerate() {
            let record = record.map_err(|e| self.error(0, e.to_string()))?;
            let line = record.position().map_or(0, csv::Position::line);
            if index == 0 {
                if !record.iter().eq(COLUMNS) {
                    return Err(self.error(line, format!("the header is not {}", COLUMNS.join(","))));
                }
            } else {
                rows.push(self.row(&record).map_err(|problem| self.error(line, problem))?);
            }
        }
        Ok(rows)
    }

    fn row(&self, record: &csv::StringRecord) -> Result<Row, String> {
        if record.len() != COLUMNS.len() + 1 {
            return Err(format!("{} fields, expected {}", record.len(), COLUMNS.len() + 1));
        }
        let number: u32 =
            record[0].parse().map_err(|_| format!("the row number `{}` is not a number", &record[0]))?;
        let quantity = |index: usize| {
            let (name, text) = (COLUMNS[index - 1], &record[index]);
            match text.parse::<f64>() {
                Ok(value) if value.is_finite() => Ok(value),
                _ => Err(format!("{name} `{text}` is not a number")),
            }
        };
        Ok(Row {
            number,
            id: Uuid::new_v5(&IDS, format!("{}:{number}", self.file).as_bytes()),
            reading: ReadingReported {
                device_id: self.device_id.to_owned(),
                temperature: quantity(2)?,
                humidity: quantity(3)?,
                light: quantity(4)?,
                co2: quantity(5)?,
                at: instant(&record[1])?,
            },
            humidity_ratio: quantity(6)?,
        })
    }

    fn error(&self, line: u64, problem: String) -> DatasetError {
        DatasetError { file: self.file.to_owned(), line, problem }
    }
}

/// The files give local times without a zone: read as UTC, which is as good as any and has no gaps.
fn instant(text: &str) -> Result<Timestamp, String> {
    let at: DateTime = text.parse().map_err(|e| format!("date `{text}`: {e}"))?;
    let zoned = at.to_zoned(TimeZone::UTC).map_err(|e| format!("date `{text}`: {e}"))?;
    Ok(zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn source(text: &'static str) -> Source {
        Source { device_id: "d", file: "f.txt", text }
    }

    #[test]
    fn every_row_of_the_three_files_is_read() {
        let rows: Vec<_> = SOURCES.iter().map(|s| s.rows().unwrap()).collect();
        assert_eq!(rows.iter().map(Vec::len).collect::<Vec<_>>(), [2_665, 8_143, 9_752]);

        let first = &rows[0][0];
        assert_eq!((first.number, first.reading.device_id.as_str()), (140, "office-a"));
        assert_eq!(first.reading.at.to_string(), "2015-02-02T14:19:00Z");
        assert_eq!(
            (first.reading.temperature, first.reading.humidity, first.reading.light, first.reading.co2),
            (23.7, 26.272, 585.2, 749.2)
        );
        let last = rows[2].last().unwrap();
        assert_eq!((last.number, last.reading.at.to_string().as_str()), (9_752, "2015-02-18T09:19:00Z"));
    }

    #[test]
    fn ids_are_unique_and_the_same_in_every_run() {
        let rows: Vec<_> = SOURCES.iter().flat_map(|s| s.rows().unwrap()).collect();
        assert_eq!(rows.iter().map(|r| r.id).collect::<HashSet<_>>().len(), 20_560);
        assert_eq!(rows[0].id.to_string(), "ae19f1fd-dcb0-55ca-80ca-0e6aaa9ce98e");
    }

    #[test]
    fn rows_of_a_device_are_in_the_order_of_time() {
        for source in SOURCES {
            assert!(source.rows().unwrap().is_sorted_by(|a, b| a.reading.at < b.reading.at));
        }
    }

    #[test]
    fn quotes_may_be_around_any_field() {
        let text = "\"date\",\"Temperature\",\"Humidity\",\"Light\",\"CO2\",\"HumidityRatio\",\"Occupancy\"\n\
                    \"1\",2015-02-11 14:48:00,\"21.76\",31,0,400,0.005,1\n";
        let rows = source(text).rows().unwrap();
        assert_eq!((rows[0].number, rows[0].reading.temperature), (1, 21.76));
    }

    #[test]
    fn an_error_says_where_and_what() {
        const HEADER: &str = "date,Temperature,Humidity,Light,CO2,HumidityRatio,Occupancy";
        for (row, message) in [
            ("1,2015-02-11 14:48:00,x,31,0,400,0.005,1", "f.txt, line 2: Temperature `x` is not a number"),
            (
                "1,2015-02-11 14:48:00,NaN,31,0,400,0.005,1",
                "f.txt, line 2: Temperature `NaN` is not a number",
            ),
            ("1,2015-02-11 14:48:00,21,31,0,400,0.005", "f.txt, line 2: 7 fields, expected 8"),
            (
                "one,2015-02-11 14:48:00,21,31,0,400,0.005,1",
                "f.txt, line 2: the row number `one` is not a number",
            ),
        ] {
            let text = format!("{HEADER}\n{row}\n").leak();
            assert_eq!(source(text).rows().unwrap_err().to_string(), message);
        }
        let text = format!("{HEADER}\n1,yesterday,21,31,0,400,0.005,1\n").leak();
        assert!(
            source(text).rows().unwrap_err().to_string().starts_with("f.txt, line 2: date `yesterday`: ")
        );
        assert_eq!(
            source("Temperature\n").rows().unwrap_err().to_string(),
            "f.txt, line 1: the header is not date,Temperature,Humidity,Light,CO2,HumidityRatio,Occupancy"
        );
    }
}
