-- The ledger: how every prediction ended, and what had been asked.
--
-- `Ledger.migrate` runs this file in one transaction, under an advisory lock, whenever the database
-- is older than the code (`schema_version`). It must therefore bring a database of any earlier
-- version to the present one, and change nothing the second time: IF NOT EXISTS, OR REPLACE.
-- Needs PostgreSQL 14 or newer and no extension.

CREATE TABLE IF NOT EXISTS schema_version (
    version    integer     PRIMARY KEY CHECK (version >= 1),
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- One row a prediction, inserted when it ends and never updated: the first outcome wins.
--
-- The time of acceptance is the first 48 bits of the id, so it has no column: see accepted_at().
-- JSON is `json`, not `jsonb`: the text is answered as it was recorded, byte for byte, and nothing
-- that is valid JSON is refused (jsonb rejects \u0000 and lone surrogates, and respells numbers).
CREATE TABLE IF NOT EXISTS predictions (
    id           uuid             NOT NULL,  -- UUIDv7; 26 characters of base32hex in the API
    model        text             NOT NULL,
    version      bigint           NOT NULL,
    priority     text             NOT NULL,
    owner        text             NOT NULL,  -- the name of the token it came with; '' without tokens
    input        json             NOT NULL,  -- an object: what the caller sent, except for files
    files        json             NOT NULL,  -- {field: {media_type, size, sha256}}; contents are blobs
    status       text             NOT NULL,
    output       json,
    error_code   text,
    error        text,
    attempts     integer          NOT NULL,  -- 0: it ended without being run
    started_at   timestamptz      NOT NULL,  -- of the attempt that ended it
    completed_at timestamptz      NOT NULL,
    queue_ms     double precision NOT NULL,  -- accepted until started
    compute_ms   double precision NOT NULL,  -- inside the Triton request that carried it
    deadline_at  timestamptz,                -- from then on it would not have been run
    retry_of     uuid,                       -- the failed prediction whose input it repeated

    CONSTRAINT predictions_pkey PRIMARY KEY (id),
    CONSTRAINT model_is_a_name CHECK (model ~ '^[A-Za-z0-9._-]{1,128}$'),
    CONSTRAINT version_is_positive CHECK (version >= 1),
    CONSTRAINT priority_is_known CHECK (priority IN ('high', 'normal', 'low')),
    CONSTRAINT owner_is_short CHECK (octet_length(owner) <= 256),
    CONSTRAINT input_is_an_object CHECK (json_typeof(input) = 'object'),
    CONSTRAINT files_is_an_object CHECK (json_typeof(files) = 'object'),
    CONSTRAINT status_is_terminal CHECK (status IN ('succeeded', 'failed', 'canceled')),
    CONSTRAINT output_exactly_when_succeeded CHECK ((output IS NOT NULL) = (status = 'succeeded')),
    CONSTRAINT error_exactly_when_failed CHECK (
        (error IS NOT NULL) = (status = 'failed') AND (error_code IS NOT NULL) = (status = 'failed')
    ),
    CONSTRAINT error_code_is_a_word CHECK (error_code ~ '^[a-z][a-z0-9_]{0,63}$'),
    CONSTRAINT attempts_are_counted CHECK (attempts >= 0),
    CONSTRAINT completed_after_started CHECK (completed_at >= started_at),
    -- NaN sorts above Infinity in Postgres, so the upper bound refuses both.
    CONSTRAINT durations_are_finite CHECK (
        queue_ms >= 0 AND queue_ms < 'Infinity' AND compute_ms >= 0 AND compute_ms < 'Infinity'
    )
) PARTITION BY RANGE (id);

-- Version 2. Without a default, so no row is rewritten.
ALTER TABLE predictions
    ADD COLUMN IF NOT EXISTS deadline_at timestamptz,
    ADD COLUMN IF NOT EXISTS retry_of    uuid;

-- Reads newest first, by owner and by model. Few predictions fail, so those have a small index of
-- their own; the succeeded ones are found by walking the primary key.
CREATE INDEX IF NOT EXISTS predictions_by_owner ON predictions (owner, id);
CREATE INDEX IF NOT EXISTS predictions_by_model ON predictions (model, id);
CREATE INDEX IF NOT EXISTS predictions_not_succeeded
    ON predictions (status, id) WHERE status <> 'succeeded';

-- Ids outside every week's partition (a ticket that waited for a month, a clock gone wrong) are
-- recorded here. Nothing is refused for want of a partition.
CREATE TABLE IF NOT EXISTS predictions_default PARTITION OF predictions DEFAULT;

-- How often runs of a prediction were begun again: one row for each that was delivered more than
-- once, so that one which kills every dispatcher is given up in the end. Version 2.
CREATE TABLE IF NOT EXISTS begun (
    id      uuid        PRIMARY KEY,
    times   integer     NOT NULL DEFAULT 1 CHECK (times >= 1),
    last_at timestamptz NOT NULL DEFAULT now()
);

-- Everything accepted before this moment has been removed by the retention: one row, or none while
-- nothing has been. Version 2.
CREATE TABLE IF NOT EXISTS horizon (
    one             boolean     PRIMARY KEY DEFAULT true CHECK (one),
    accepted_before timestamptz NOT NULL
);

-- A backup that is being restored: one row from the moment at which its outcomes are here until the
-- queue is complete too, so that a restore which was cut off is gone on with. Version 2.
CREATE TABLE IF NOT EXISTS restoring (
    one    boolean PRIMARY KEY DEFAULT true CHECK (one),
    backup text    NOT NULL
);

-- Inserted once is a fact of the database, not a habit of its clients. A row trigger, since
-- partitions inherit those: an UPDATE of one partition is refused too.
CREATE OR REPLACE FUNCTION predictions_refuse_update() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'prediction % has ended: its row is never updated', OLD.id
        USING ERRCODE = 'restrict_violation';
END
$$;

DROP TRIGGER IF EXISTS predictions_never_updated ON predictions;
CREATE TRIGGER predictions_never_updated BEFORE UPDATE ON predictions
    FOR EACH ROW EXECUTE FUNCTION predictions_refuse_update();

-- When a prediction was accepted: the first 48 bits of a UUIDv7 (RFC 9562, section 5.7) are the
-- Unix time in milliseconds.
CREATE OR REPLACE FUNCTION accepted_at(id uuid) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT timestamptz 'epoch'
         + ('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint * interval '1 ms'
$$;

-- The smallest id a prediction accepted at `moment` may have: the bound of a partition.
CREATE OR REPLACE FUNCTION first_id_at(moment timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT rpad(
        lpad(to_hex(floor(extract(epoch FROM moment) * 1000)::bigint), 12, '0'), 32, '0'
    )::uuid
$$;

-- Make the partition of one week, Monday to Monday in UTC, unless it is there. Rows that fell into
-- the default partition meanwhile move into it.
--
-- ATTACH lets reads and inserts of other partitions go on; only the default partition is locked.
-- Whoever reads that one for long makes us give up after two seconds, rather than stall everybody
-- who queues behind us: partitions are made weeks ahead, so there is time for another try.
CREATE OR REPLACE FUNCTION predictions_add_week(monday date) RETURNS boolean
LANGUAGE plpgsql SET lock_timeout = '2s' AS $$
DECLARE
    name     text := 'predictions_' || to_char(monday, 'YYYY_MM_DD');
    lower_id uuid := first_id_at(monday::timestamp AT TIME ZONE 'UTC');
    upper_id uuid := first_id_at((monday + 7)::timestamp AT TIME ZONE 'UTC');
BEGIN
    IF extract(isodow FROM monday) <> 1 THEN
        RAISE EXCEPTION '% is not a Monday', monday USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF to_regclass(name) IS NOT NULL THEN
        RETURN false;
    END IF;
    LOCK TABLE predictions_default IN ACCESS EXCLUSIVE MODE;
    IF to_regclass(name) IS NOT NULL THEN  -- another process made it while we waited
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE predictions INCLUDING ALL)', name);
    EXECUTE format(
        'WITH moved AS (DELETE FROM predictions_default WHERE id >= %L AND id < %L RETURNING *)'
        ' INSERT INTO %I SELECT * FROM moved', lower_id, upper_id, name);
    EXECUTE format(
        'ALTER TABLE predictions ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        name, lower_id, upper_id);
    RETURN true;
END
$$;

-- Everything accepted before `moment` is being removed: nobody who finds nothing is to wonder why.
CREATE OR REPLACE FUNCTION horizon_moves_to(moment timestamptz) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO horizon AS present (accepted_before) VALUES (moment)
    ON CONFLICT (one) DO UPDATE
        SET accepted_before = greatest(present.accepted_before, excluded.accepted_before)
$$;

-- Drop the partition of a week that is over, if everything in it ended before `ended_before`, and
-- move the horizon past it. Returns the number of rows, NULL where the week stays for now: a row of
-- it is younger, or another process is at work.
--
-- While rows are counted, reads go on; only who wants to insert into this old week waits, so none
-- can slip in unseen. The drop itself needs the whole table for an instant. We wait for that no
-- longer than a second, since everybody else waits behind us, and fail: there is time for another
-- try. Whoever waits to insert meanwhile makes it a deadlock, which ends in the same way.
CREATE OR REPLACE FUNCTION predictions_expire_week(monday date, ended_before timestamptz)
RETURNS bigint
LANGUAGE plpgsql SET lock_timeout = '1s' AS $$
DECLARE
    name      text := 'predictions_' || to_char(monday, 'YYYY_MM_DD');
    week_ends timestamptz := (monday + 7)::timestamp AT TIME ZONE 'UTC';
    rows      bigint;
    latest    timestamptz;
BEGIN
    IF week_ends > ended_before THEN
        RAISE EXCEPTION 'the week of % is not over', monday
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NOT pg_try_advisory_xact_lock(hashtext('predictions_expire_week')) THEN
        RETURN NULL;
    END IF;
    IF to_regclass(name) IS NULL THEN  -- another process was faster
        RETURN 0;
    END IF;
    EXECUTE format('LOCK TABLE %I IN SHARE MODE', name);
    EXECUTE format('SELECT count(*), max(completed_at) FROM %I', name) INTO rows, latest;
    IF latest >= ended_before THEN
        RETURN NULL;
    END IF;
    PERFORM horizon_moves_to(week_ends);
    EXECUTE format('DROP TABLE %I', name);
    RETURN rows;
END
$$;
