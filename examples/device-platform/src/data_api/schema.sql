-- Times are microseconds since 1970 in UTC. Ids are the messages' own. `arrival` counts what came in, in the order in which it did.
CREATE TABLE IF NOT EXISTS readings (
    arrival        INTEGER PRIMARY KEY,
    id             TEXT NOT NULL UNIQUE,
    trace_id       TEXT NOT NULL,
    device_id      TEXT NOT NULL,
    at             INTEGER NOT NULL,
    temperature    REAL NOT NULL,
    humidity       REAL NOT NULL,
    light          REAL NOT NULL,
    co2            REAL NOT NULL,
    humidity_ratio REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS readings_by_device ON readings (device_id, at, id);

-- Each device with its newest reading by event time.
CREATE TABLE IF NOT EXISTS devices (
    device_id TEXT PRIMARY KEY,
    readings  INTEGER NOT NULL,
    at        INTEGER NOT NULL,
    id        TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The sums are whole numbers of small steps (see processing::aggregate): adding them gives the same in every order.
CREATE TABLE IF NOT EXISTS aggregates (
    device_id          TEXT NOT NULL,
    "window"           TEXT NOT NULL,
    start              INTEGER NOT NULL,
    count              INTEGER NOT NULL,
    temperature_min    REAL NOT NULL, temperature_max    REAL NOT NULL, temperature_sum    INTEGER NOT NULL,
    humidity_min       REAL NOT NULL, humidity_max       REAL NOT NULL, humidity_sum       INTEGER NOT NULL,
    light_min          REAL NOT NULL, light_max          REAL NOT NULL, light_sum          INTEGER NOT NULL,
    co2_min            REAL NOT NULL, co2_max            REAL NOT NULL, co2_sum            INTEGER NOT NULL,
    humidity_ratio_min REAL NOT NULL, humidity_ratio_max REAL NOT NULL, humidity_ratio_sum INTEGER NOT NULL,
    PRIMARY KEY (device_id, "window", start)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS aggregates_by_time ON aggregates ("window", start, device_id);

CREATE TABLE IF NOT EXISTS alerts (
    arrival   INTEGER PRIMARY KEY,
    id        TEXT NOT NULL UNIQUE,
    trace_id  TEXT NOT NULL,
    state     TEXT NOT NULL,
    device_id TEXT NOT NULL,
    rule      TEXT NOT NULL,
    quantity  TEXT NOT NULL,
    value     REAL NOT NULL,
    threshold REAL NOT NULL,
    at        INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS alerts_by_device ON alerts (device_id, at, id);

CREATE TABLE IF NOT EXISTS hops (
    trace_id     TEXT NOT NULL,
    id           TEXT NOT NULL,
    causation_id TEXT,
    hop          INTEGER NOT NULL,
    topic        TEXT NOT NULL,
    type         TEXT NOT NULL,
    component    TEXT NOT NULL,
    time         INTEGER NOT NULL,
    outcome      TEXT NOT NULL,
    attempts     INTEGER NOT NULL,
    PRIMARY KEY (trace_id, id, component)
) STRICT, WITHOUT ROWID;

-- One message can be a dead letter of several groups.
CREATE TABLE IF NOT EXISTS dead_letters (
    arrival  INTEGER PRIMARY KEY,
    id       TEXT NOT NULL,
    "group"  TEXT NOT NULL,
    trace_id TEXT NOT NULL,
    topic    TEXT NOT NULL,
    type     TEXT NOT NULL,
    kind     TEXT NOT NULL,
    error    TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    time     INTEGER NOT NULL,
    payload  TEXT NOT NULL,
    UNIQUE (id, "group")
) STRICT;
