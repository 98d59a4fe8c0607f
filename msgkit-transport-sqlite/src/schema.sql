-- One row: the schema's version, and what every commit reads and moves on.
CREATE TABLE msgkit_state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    version INTEGER NOT NULL,
    generation INTEGER NOT NULL,  -- rises with each change of the groups
    next INTEGER NOT NULL,        -- the next message's place in the order
    unrouted INTEGER NOT NULL     -- messages that no group took
);
INSERT INTO msgkit_state VALUES (1, 1, 0, 1, 0);

-- Every message once, however many groups it goes to.
CREATE TABLE msgkit_message (
    id INTEGER PRIMARY KEY,       -- its place in the order
    at INTEGER NOT NULL,          -- when it was published, in microseconds since 1970, like every time here but `lease`
    retained INTEGER NOT NULL,    -- until when it is kept though no group needs it; 0 = not
    body BLOB NOT NULL            -- structured JSON
);
CREATE INDEX msgkit_retained ON msgkit_message (retained) WHERE retained > 0;

-- Who takes what. Without a name: a subscription of one process alone, which goes with it.
CREATE TABLE msgkit_group (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT UNIQUE,
    process INTEGER,
    patterns TEXT NOT NULL,       -- a JSON list
    depth INTEGER NOT NULL DEFAULT 0  -- its rows in msgkit_queue and msgkit_delayed
);

-- What waits for a group, and what is in hand.
CREATE TABLE msgkit_queue (
    grp INTEGER NOT NULL,
    message INTEGER NOT NULL,
    key INTEGER,                  -- a hash of the ordering key
    starts INTEGER NOT NULL DEFAULT 0,
    member INTEGER,               -- who has it in hand
    PRIMARY KEY (grp, message)
) WITHOUT ROWID;
CREATE INDEX msgkit_in_hand ON msgkit_queue (member, key) WHERE member IS NOT NULL;

-- What is kept back until it is due.
CREATE TABLE msgkit_delayed (
    due INTEGER NOT NULL,
    grp INTEGER NOT NULL,
    message INTEGER NOT NULL,
    key INTEGER,
    step INTEGER NOT NULL,        -- the delay step of a retry copy; 0 = published for later
    PRIMARY KEY (due, grp, message)
) WITHOUT ROWID;
CREATE INDEX msgkit_delayed_message ON msgkit_delayed (message);
CREATE INDEX msgkit_delayed_group ON msgkit_delayed (grp, step);

-- What groups gave up on; kept until somebody replays or removes it.
CREATE TABLE msgkit_dead_letter (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    grp TEXT NOT NULL,
    at INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX msgkit_dead_letter_group ON msgkit_dead_letter (grp, id);

-- Who is alive, and each one's subscriptions.
CREATE TABLE msgkit_process (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    lease INTEGER NOT NULL        -- until when it counts as alive, in milliseconds since 1970
);
CREATE TABLE msgkit_member (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    process INTEGER NOT NULL,
    grp INTEGER NOT NULL
);
CREATE INDEX msgkit_member_group ON msgkit_member (grp);
CREATE INDEX msgkit_member_process ON msgkit_member (process);
