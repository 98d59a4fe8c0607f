-- Adds a reading to its window. The parameters are the columns in the order of the table.
INSERT INTO aggregates (
    device_id, "window", start, count,
    temperature_min, temperature_max, temperature_sum,
    humidity_min, humidity_max, humidity_sum,
    light_min, light_max, light_sum,
    co2_min, co2_max, co2_sum,
    humidity_ratio_min, humidity_ratio_max, humidity_ratio_sum
) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)
ON CONFLICT (device_id, "window", start) DO UPDATE SET
    count = count + excluded.count,
    temperature_min = min(temperature_min, excluded.temperature_min),
    temperature_max = max(temperature_max, excluded.temperature_max),
    temperature_sum = temperature_sum + excluded.temperature_sum,
    humidity_min = min(humidity_min, excluded.humidity_min),
    humidity_max = max(humidity_max, excluded.humidity_max),
    humidity_sum = humidity_sum + excluded.humidity_sum,
    light_min = min(light_min, excluded.light_min),
    light_max = max(light_max, excluded.light_max),
    light_sum = light_sum + excluded.light_sum,
    co2_min = min(co2_min, excluded.co2_min),
    co2_max = max(co2_max, excluded.co2_max),
    co2_sum = co2_sum + excluded.co2_sum,
    humidity_ratio_min = min(humidity_ratio_min, excluded.humidity_ratio_min),
    humidity_ratio_max = max(humidity_ratio_max, excluded.humidity_ratio_max),
    humidity_ratio_sum = humidity_ratio_sum + excluded.humidity_ratio_sum
RETURNING *
