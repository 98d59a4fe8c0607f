//! How much water is in the air.

/// Standard atmosphere at sea level, Pa. The data set has no pressure; its authors took the same.
const PRESSURE: f64 = 101_325.0;

/// Molar mass of water over that of dry air.
const WATER_TO_AIR: f64 = 0.62198;

/// The humidity ratio in kg of water per kg of dry air, from temperature (°C) and relative humidity (%).
///
/// Dalton's law with the pressure of saturated vapour over water after A. L. Buck, "New equations for computing vapor pressure and
/// enhancement factor" (1981), in the revision of 1996.
#[must_use]
pub fn ratio(temperature: f64, humidity: f64) -> f64 {
    let saturation = 611.21 * ((18.678 - temperature / 234.5) * (temperature / (257.14 + temperature))).exp();
    let vapour = saturation * humidity / 100.0;
    WATER_TO_AIR * vapour / (PRESSURE - vapour)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device_hw::dataset::SOURCES;

    #[test]
    fn agrees_with_the_data_set_within_half_a_percent_in_every_row() {
        let rows: Vec<_> = SOURCES.iter().flat_map(|s| s.rows().unwrap()).collect();
        let worst = rows
            .iter()
            .map(|row| {
                (ratio(row.reading.temperature, row.reading.humidity) / row.humidity_ratio - 1.0).abs()
            })
            .fold(0.0, f64::max);
        assert!(worst < 0.005, "off by {worst}");
        assert_eq!(rows.len(), 20_560);
    }

    #[test]
    fn dry_air_holds_no_water() {
        assert_eq!(ratio(20.0, 0.0), 0.0);
    }
}
