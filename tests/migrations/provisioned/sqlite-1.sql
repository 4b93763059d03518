-- A database of version 1 of the engine sqlite with a few rows, as .dump writes it, and what a dump leaves out.
PRAGMA application_id = 1718382709;
PRAGMA auto_vacuum = INCREMENTAL;
BEGIN TRANSACTION;
CREATE TABLE agent_metrics (
    ts INTEGER NOT NULL,
    agent_id INTEGER NOT NULL,
    metric_id INTEGER NOT NULL,
    value REAL NOT NULL
) STRICT;
INSERT INTO "agent_metrics" VALUES(1773144000000000,1,1,0.0);
INSERT INTO "agent_metrics" VALUES(1773144030000000,1,1,0.1);
INSERT INTO "agent_metrics" VALUES(1773144060000000,1,1,0.2);
INSERT INTO "agent_metrics" VALUES(1773144001000000,1,1,9.0);
CREATE TABLE agent_metrics_1d_mat (
    bucket INTEGER NOT NULL,
    agent_id INTEGER NOT NULL,
    metric_id INTEGER NOT NULL,
    n INTEGER NOT NULL,
    sum REAL NOT NULL,
    min REAL NOT NULL,
    max REAL NOT NULL,
    last REAL NOT NULL,
    PRIMARY KEY (agent_id, metric_id, bucket)
) STRICT, WITHOUT ROWID;
CREATE TABLE agent_metrics_1h_mat (
    bucket INTEGER NOT NULL,
    agent_id INTEGER NOT NULL,
    metric_id INTEGER NOT NULL,
    n INTEGER NOT NULL,
    sum REAL NOT NULL,
    min REAL NOT NULL,
    max REAL NOT NULL,
    last REAL NOT NULL,
    PRIMARY KEY (agent_id, metric_id, bucket)
) STRICT, WITHOUT ROWID;
INSERT INTO "agent_metrics_1h_mat" VALUES(1773144000000000,1,1,3,3.00000000000000044408e-01,0.0,0.2,0.2);
CREATE TABLE agent_metrics_1m_mat (
    bucket INTEGER NOT NULL,
    agent_id INTEGER NOT NULL,
    metric_id INTEGER NOT NULL,
    n INTEGER NOT NULL,
    sum REAL NOT NULL,
    min REAL NOT NULL,
    max REAL NOT NULL,
    last REAL NOT NULL,
    PRIMARY KEY (agent_id, metric_id, bucket)
) STRICT, WITHOUT ROWID;
INSERT INTO "agent_metrics_1m_mat" VALUES(1773144000000000,1,1,2,0.1,0.0,0.1,0.1);
INSERT INTO "agent_metrics_1m_mat" VALUES(1773144060000000,1,1,1,0.2,0.2,0.2,0.2);
CREATE TABLE agent_metrics_series (
    agent_id INTEGER NOT NULL,
    metric_id INTEGER NOT NULL,
    PRIMARY KEY (agent_id, metric_id)
) STRICT, WITHOUT ROWID;
INSERT INTO "agent_metrics_series" VALUES(1,1);
CREATE TABLE agent_schedules (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	agent_id INTEGER NOT NULL, 
	from_ts INTEGER NOT NULL, 
	to_ts INTEGER, 
	interval_s DOUBLE NOT NULL, 
	offset_s DOUBLE NOT NULL, 
	state TEXT NOT NULL, 
	CONSTRAINT agent_schedules_state_check CHECK (state IN ('active', 'paused')), 
	CONSTRAINT agent_schedules_grid_check CHECK (interval_s > 0 AND offset_s >= 0 AND offset_s < interval_s), 
	CONSTRAINT agent_schedules_order_check CHECK (to_ts >= from_ts), 
	CONSTRAINT agent_schedules_agent_id_fkey FOREIGN KEY(agent_id) REFERENCES agents (id)
);
CREATE TABLE agents (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	name TEXT NOT NULL, 
	type TEXT NOT NULL, 
	probe TEXT NOT NULL, 
	endpoint TEXT NOT NULL, 
	labels JSON NOT NULL, 
	interval_s DOUBLE NOT NULL, 
	timeout_s DOUBLE NOT NULL, 
	rise INTEGER NOT NULL, 
	fall INTEGER NOT NULL, 
	credential TEXT NOT NULL, 
	options JSON NOT NULL, 
	source TEXT NOT NULL, 
	state TEXT DEFAULT 'active' NOT NULL, 
	source_paused BOOLEAN DEFAULT 0 NOT NULL, 
	status TEXT DEFAULT 'unknown' NOT NULL, 
	status_due INTEGER, 
	status_spool CHAR(32), 
	status_seq BIGINT, 
	status_reason TEXT DEFAULT '' NOT NULL, 
	created_at INTEGER NOT NULL, 
	retired_at INTEGER, 
	CONSTRAINT agents_source_check CHECK (source IN ('file', 'api')), 
	CONSTRAINT agents_state_check CHECK (state IN ('active', 'paused', 'retired')), 
	CONSTRAINT agents_status_check CHECK (status IN ('unknown', 'healthy', 'degraded', 'unhealthy', 'stalled', 'timeout', 'refused', 'error', 'paused')), 
	CONSTRAINT agents_retired_at_check CHECK ((state = 'retired') = (retired_at IS NOT NULL)), 
	CONSTRAINT agents_name_key UNIQUE (name)
);
INSERT INTO "agents" VALUES(1,'a','unknown','http','','{}',15.0,10.0,1,2,'','{}','api','retired',0,'unknown',NULL,NULL,NULL,'',1795452521477274,1795452521477274);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE collector_sessions (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	uuid CHAR(32) NOT NULL, 
	name TEXT NOT NULL, 
	host TEXT NOT NULL, 
	pid INTEGER NOT NULL, 
	version TEXT NOT NULL, 
	started_at INTEGER NOT NULL, 
	last_seen_at INTEGER NOT NULL, 
	ended_at INTEGER, 
	observed_to INTEGER, 
	CONSTRAINT collector_sessions_uuid_key UNIQUE (uuid)
);
INSERT INTO "collector_sessions" VALUES(1,'6a0f6f8e000040008000000000000001','test','testhost',1,'0',1767225600000000,1795452521503614,NULL,NULL);
CREATE TABLE health_1d_mat (
    bucket INTEGER NOT NULL,
    agent_id INTEGER NOT NULL,
    n INTEGER NOT NULL,
    healthy INTEGER NOT NULL,
    degraded INTEGER NOT NULL,
    unhealthy INTEGER NOT NULL,
    stalled INTEGER NOT NULL,
    timeout INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    error INTEGER NOT NULL,
    skipped INTEGER NOT NULL,
    paused INTEGER NOT NULL,
    latency_n INTEGER NOT NULL,
    latency_sum REAL,
    latency_min REAL,
    latency_max REAL,
    latency_last REAL,
    late_max REAL,
    last_outcome INTEGER NOT NULL,
    latency_bins TEXT,
    PRIMARY KEY (agent_id, bucket)
) STRICT;
CREATE TABLE health_1h_mat (
    bucket INTEGER NOT NULL,
    agent_id INTEGER NOT NULL,
    n INTEGER NOT NULL,
    healthy INTEGER NOT NULL,
    degraded INTEGER NOT NULL,
    unhealthy INTEGER NOT NULL,
    stalled INTEGER NOT NULL,
    timeout INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    error INTEGER NOT NULL,
    skipped INTEGER NOT NULL,
    paused INTEGER NOT NULL,
    latency_n INTEGER NOT NULL,
    latency_sum REAL,
    latency_min REAL,
    latency_max REAL,
    latency_last REAL,
    late_max REAL,
    last_outcome INTEGER NOT NULL,
    latency_bins TEXT,
    PRIMARY KEY (agent_id, bucket)
) STRICT;
INSERT INTO "health_1h_mat" VALUES(1773144000000000,1,3,1,1,1,0,0,0,0,0,0,3,18.0,5.0,7.0,7.0,1.0,2,'[[198,1],[207,1],[215,1]]');
CREATE TABLE health_1m_mat (
    bucket INTEGER NOT NULL,
    agent_id INTEGER NOT NULL,
    n INTEGER NOT NULL,
    healthy INTEGER NOT NULL,
    degraded INTEGER NOT NULL,
    unhealthy INTEGER NOT NULL,
    stalled INTEGER NOT NULL,
    timeout INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    error INTEGER NOT NULL,
    skipped INTEGER NOT NULL,
    paused INTEGER NOT NULL,
    latency_n INTEGER NOT NULL,
    latency_sum REAL,
    latency_min REAL,
    latency_max REAL,
    latency_last REAL,
    late_max REAL,
    last_outcome INTEGER NOT NULL,
    latency_bins TEXT,
    PRIMARY KEY (agent_id, bucket)
) STRICT, WITHOUT ROWID;
INSERT INTO "health_1m_mat" VALUES(1773144000000000,1,2,1,1,0,0,0,0,0,0,0,2,11.0,5.0,6.0,6.0,1.0,1,'[[198,1],[207,1]]');
INSERT INTO "health_1m_mat" VALUES(1773144060000000,1,1,0,0,1,0,0,0,0,0,0,1,7.0,7.0,7.0,7.0,1.0,2,'[[215,1]]');
CREATE TABLE health_checks (
    ts INTEGER NOT NULL,
    agent_id INTEGER NOT NULL,
    outcome INTEGER NOT NULL,
    late_ms REAL,
    latency_ms REAL,
    http_status INTEGER NOT NULL,
    reason_id INTEGER,
    session_id INTEGER NOT NULL
) STRICT;
INSERT INTO "health_checks" VALUES(1773144000000000,1,0,1.0,5.0,200,NULL,1);
INSERT INTO "health_checks" VALUES(1773144030000000,1,1,1.0,6.0,200,NULL,1);
INSERT INTO "health_checks" VALUES(1773144060000000,1,2,1.0,7.0,200,NULL,1);
CREATE TABLE health_checks_series (
    agent_id INTEGER NOT NULL,
    PRIMARY KEY (agent_id)
) STRICT, WITHOUT ROWID;
INSERT INTO "health_checks_series" VALUES(1);
CREATE TABLE horizons (
    tbl INTEGER NOT NULL,
    tier INTEGER NOT NULL,
    closed_before INTEGER NOT NULL,
    dropped_before INTEGER NOT NULL,
    PRIMARY KEY (tbl, tier),
    CHECK (dropped_before <= closed_before)
) STRICT, WITHOUT ROWID;
INSERT INTO "horizons" VALUES(1,0,0,0);
INSERT INTO "horizons" VALUES(1,1,0,0);
INSERT INTO "horizons" VALUES(1,2,0,0);
INSERT INTO "horizons" VALUES(1,3,0,0);
INSERT INTO "horizons" VALUES(2,0,0,0);
INSERT INTO "horizons" VALUES(2,1,0,0);
INSERT INTO "horizons" VALUES(2,2,0,0);
INSERT INTO "horizons" VALUES(2,3,0,0);
INSERT INTO "horizons" VALUES(3,0,0,0);
INSERT INTO "horizons" VALUES(3,1,0,0);
INSERT INTO "horizons" VALUES(3,2,0,0);
INSERT INTO "horizons" VALUES(3,3,0,0);
CREATE TABLE hosts (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	name TEXT NOT NULL, 
	labels JSON DEFAULT '{}' NOT NULL, 
	created_at INTEGER NOT NULL, 
	CONSTRAINT hosts_name_key UNIQUE (name)
);
INSERT INTO "hosts" VALUES(1,'h','{}',1795452521477274);
CREATE TABLE ingest_batch_days (
    spool_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    tbl INTEGER NOT NULL,
    utc_day TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (spool_id, seq, tbl, utc_day)
) STRICT, WITHOUT ROWID;
INSERT INTO "ingest_batch_days" VALUES('0585c324109742229649b2677f9bae76',1,1,'2026-03-10',3);
INSERT INTO "ingest_batch_days" VALUES('0585c324109742229649b2677f9bae76',2,2,'2026-03-10',1);
INSERT INTO "ingest_batch_days" VALUES('0585c324109742229649b2677f9bae76',1,2,'2026-03-10',3);
INSERT INTO "ingest_batch_days" VALUES('0585c324109742229649b2677f9bae76',1,3,'2026-03-10',3);
CREATE TABLE ingest_batches (
    spool_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('committed', 'dropped')),
    n_rows INTEGER NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    committed_at INTEGER NOT NULL,
    PRIMARY KEY (spool_id, seq)
) STRICT, WITHOUT ROWID;
INSERT INTO "ingest_batches" VALUES('0585c324109742229649b2677f9bae76',1,'committed',9,'',1795452521477274);
INSERT INTO "ingest_batches" VALUES('0585c324109742229649b2677f9bae76',2,'committed',1,'',1795452521503614);
CREATE TABLE ingest_rejections (
    spool_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    tbl INTEGER NOT NULL,
    reason TEXT NOT NULL,
    n INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    PRIMARY KEY (spool_id, seq, tbl, reason)
) STRICT, WITHOUT ROWID;
CREATE TABLE losses (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	agent_id INTEGER NOT NULL, 
	from_due INTEGER NOT NULL, 
	to_due INTEGER NOT NULL, 
	n BIGINT NOT NULL, 
	reason TEXT NOT NULL, 
	spool_id CHAR(32), 
	seq BIGINT, 
	recorded_at INTEGER NOT NULL, 
	CONSTRAINT losses_order_check CHECK (to_due >= from_due), 
	CONSTRAINT losses_n_check CHECK (n >= 0)
);
CREATE TABLE marks (
    mark_id INTEGER PRIMARY KEY,
    tbl INTEGER NOT NULL,
    tier INTEGER NOT NULL,
    bucket INTEGER NOT NULL
) STRICT;
INSERT INTO "marks" VALUES(7,1,3,1773100800000000);
INSERT INTO "marks" VALUES(8,2,3,1773100800000000);
INSERT INTO "marks" VALUES(9,3,3,1773100800000000);
INSERT INTO "marks" VALUES(10,2,1,1773144000000000);
CREATE TABLE metrics (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	name TEXT NOT NULL, 
	labels JSON NOT NULL, 
	kind TEXT NOT NULL, 
	unit TEXT DEFAULT '' NOT NULL, 
	description TEXT DEFAULT '' NOT NULL, 
	labels_digest BLOB NOT NULL, 
	CONSTRAINT metrics_kind_check CHECK (kind IN ('gauge', 'counter')), 
	CONSTRAINT metrics_name_kind_labels_digest_key UNIQUE (name, kind, labels_digest)
);
INSERT INTO "metrics" VALUES(1,'m','{}','gauge','','',X'44136FA355B3678A1146AD16F7E8649E94FB4FC21FE77E8310C060F61CAAFF8A');
INSERT INTO "metrics" VALUES(2,'load','{}','gauge','','',X'44136FA355B3678A1146AD16F7E8649E94FB4FC21FE77E8310C060F61CAAFF8A');
CREATE TABLE provision_version (
    only_row INTEGER PRIMARY KEY DEFAULT 1 CHECK (only_row = 1),
    version INTEGER NOT NULL,
    engine TEXT NOT NULL,
    identity TEXT NOT NULL
) STRICT;
INSERT INTO "provision_version" VALUES(1,1,'sqlite','9054df13-ac74-4feb-adaf-52e6a1586101');
CREATE TABLE quarantine (
    quarantine_id INTEGER PRIMARY KEY,
    spool_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    tbl INTEGER NOT NULL,
    payload TEXT NOT NULL,
    sqlstate TEXT NOT NULL,
    message TEXT NOT NULL,
    recorded_at INTEGER NOT NULL
) STRICT;
CREATE TABLE reasons (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	reason TEXT NOT NULL, 
	CONSTRAINT reasons_reason_key UNIQUE (reason)
);
CREATE TABLE status_events (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	agent_id INTEGER NOT NULL, 
	ts INTEGER NOT NULL, 
	from_status TEXT NOT NULL, 
	to_status TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	spool_id CHAR(32) NOT NULL, 
	seq BIGINT NOT NULL
);
CREATE TABLE system_metrics (
    ts INTEGER NOT NULL,
    host_id INTEGER NOT NULL,
    metric_id INTEGER NOT NULL,
    value REAL NOT NULL
) STRICT;
INSERT INTO "system_metrics" VALUES(1773144000000000,1,2,1.0);
INSERT INTO "system_metrics" VALUES(1773144030000000,1,2,1.0);
INSERT INTO "system_metrics" VALUES(1773144060000000,1,2,1.0);
CREATE TABLE system_metrics_1d_mat (
    bucket INTEGER NOT NULL,
    host_id INTEGER NOT NULL,
    metric_id INTEGER NOT NULL,
    n INTEGER NOT NULL,
    sum REAL NOT NULL,
    min REAL NOT NULL,
    max REAL NOT NULL,
    last REAL NOT NULL,
    PRIMARY KEY (host_id, metric_id, bucket)
) STRICT, WITHOUT ROWID;
CREATE TABLE system_metrics_1h_mat (
    bucket INTEGER NOT NULL,
    host_id INTEGER NOT NULL,
    metric_id INTEGER NOT NULL,
    n INTEGER NOT NULL,
    sum REAL NOT NULL,
    min REAL NOT NULL,
    max REAL NOT NULL,
    last REAL NOT NULL,
    PRIMARY KEY (host_id, metric_id, bucket)
) STRICT, WITHOUT ROWID;
INSERT INTO "system_metrics_1h_mat" VALUES(1773144000000000,1,2,3,3.0,1.0,1.0,1.0);
CREATE TABLE system_metrics_1m_mat (
    bucket INTEGER NOT NULL,
    host_id INTEGER NOT NULL,
    metric_id INTEGER NOT NULL,
    n INTEGER NOT NULL,
    sum REAL NOT NULL,
    min REAL NOT NULL,
    max REAL NOT NULL,
    last REAL NOT NULL,
    PRIMARY KEY (host_id, metric_id, bucket)
) STRICT, WITHOUT ROWID;
INSERT INTO "system_metrics_1m_mat" VALUES(1773144000000000,1,2,2,2.0,1.0,1.0,1.0);
INSERT INTO "system_metrics_1m_mat" VALUES(1773144060000000,1,2,1,1.0,1.0,1.0,1.0);
CREATE TABLE system_metrics_series (
    host_id INTEGER NOT NULL,
    metric_id INTEGER NOT NULL,
    PRIMARY KEY (host_id, metric_id)
) STRICT, WITHOUT ROWID;
INSERT INTO "system_metrics_series" VALUES(1,2);
CREATE INDEX status_events_agent_id_ts_idx ON status_events (agent_id, ts);
CREATE INDEX agent_schedules_agent_id_from_ts_idx ON agent_schedules (agent_id, from_ts);
CREATE UNIQUE INDEX agent_schedules_open_key ON agent_schedules (agent_id) WHERE to_ts IS NULL;
CREATE INDEX losses_agent_id_from_due_idx ON losses (agent_id, from_due);
CREATE INDEX marks_bucket ON marks (tbl, tier, bucket);
CREATE INDEX ingest_batches_age ON ingest_batches (committed_at);
CREATE INDEX ingest_batch_days_day ON ingest_batch_days (tbl, utc_day, n);
CREATE INDEX health_checks_entity ON health_checks (agent_id, ts);
CREATE INDEX health_checks_ts ON health_checks (ts);
CREATE INDEX health_1m_mat_bucket ON health_1m_mat (bucket);
CREATE VIEW health_1m AS
SELECT u.bucket, u.agent_id, u.n, u.healthy, u.degraded, u.unhealthy, u.stalled, u.timeout, u.refused, u.error, u.skipped, u.paused, u.latency_n, u.latency_sum, u.latency_min, u.latency_max, u.latency_last, u.late_max, u.last_outcome, u.latency_bins, u.latency_sum / nullif(u.latency_n, 0) AS latency_avg
FROM (
SELECT m.bucket, m.agent_id, m.n, m.healthy, m.degraded, m.unhealthy, m.stalled, m.timeout, m.refused, m.error, m.skipped, m.paused, m.latency_n, m.latency_sum, m.latency_min, m.latency_max, m.latency_last, m.late_max, m.last_outcome, m.latency_bins
FROM health_1m_mat AS m
WHERE +m.bucket >= (SELECT z.dropped_before FROM horizons AS z WHERE z.tbl = 1 AND z.tier = 1)
  AND NOT EXISTS (
    SELECT 1
    FROM marks AS k
    WHERE k.tbl = 1
      AND k.tier IN (1)
      AND k.bucket >= m.bucket
      AND k.bucket < m.bucket + 60000000
)
UNION ALL
SELECT x.bucket, x.agent_id, x.n, x.healthy, x.degraded, x.unhealthy, x.stalled, x.timeout, x.refused, x.error, x.skipped, x.paused, x.latency_n, x.latency_sum, x.latency_min, x.latency_max,
       (
           SELECT v.latency_ms
           FROM health_checks AS v
           WHERE v.agent_id = x.agent_id
             AND v.ts >= x.bucket
             AND v.ts < x.bucket + 60000000
             AND v.latency_ms IS NOT NULL
           ORDER BY v.ts DESC, v.latency_ms DESC
           LIMIT 1
       ) AS latency_last,
       x.late_max,
       (
           SELECT v.outcome
           FROM health_checks AS v
           WHERE v.agent_id = x.agent_id
             AND v.ts >= x.bucket
             AND v.ts < x.bucket + 60000000
           ORDER BY v.ts DESC, v.outcome DESC
           LIMIT 1
       ) AS last_outcome,
       x.latency_bins
FROM (
SELECT d.bucket AS bucket,
       r.agent_id,
       sum(r.ts IS NOT NULL) AS n,
       sum(r.outcome = 0) AS healthy,
       sum(r.outcome = 1) AS degraded,
       sum(r.outcome = 2) AS unhealthy,
       sum(r.outcome = 3) AS stalled,
       sum(r.outcome = 4) AS timeout,
       sum(r.outcome = 5) AS refused,
       sum(r.outcome = 6) AS error,
       sum(r.outcome = 7) AS skipped,
       sum(r.outcome = 8) AS paused,
       sum(r.latency_ms IS NOT NULL) AS latency_n,
       sum(r.latency_ms) AS latency_sum,
       min(r.latency_ms) AS latency_min,
       max(r.latency_ms) AS latency_max,
       max(r.late_ms) AS late_max,
       latency_bins_of(r.latency_ms) AS latency_bins
FROM (
    SELECT DISTINCT k.bucket
    FROM marks AS k
    WHERE k.tbl = 1
      AND k.tier = 1
) AS d
CROSS JOIN health_checks AS r ON r.ts >= d.bucket AND r.ts < d.bucket + 60000000
GROUP BY d.bucket, r.agent_id
HAVING sum(r.ts IS NOT NULL) > 0
) AS x
) AS u;
CREATE INDEX health_1h_mat_bucket ON health_1h_mat (bucket);
CREATE VIEW health_1h AS
SELECT u.bucket, u.agent_id, u.n, u.healthy, u.degraded, u.unhealthy, u.stalled, u.timeout, u.refused, u.error, u.skipped, u.paused, u.latency_n, u.latency_sum, u.latency_min, u.latency_max, u.latency_last, u.late_max, u.last_outcome, u.latency_bins, u.latency_sum / nullif(u.latency_n, 0) AS latency_avg
FROM (
SELECT m.bucket, m.agent_id, m.n, m.healthy, m.degraded, m.unhealthy, m.stalled, m.timeout, m.refused, m.error, m.skipped, m.paused, m.latency_n, m.latency_sum, m.latency_min, m.latency_max, m.latency_last, m.late_max, m.last_outcome, m.latency_bins
FROM health_1h_mat AS m
WHERE +m.bucket >= (SELECT z.dropped_before FROM horizons AS z WHERE z.tbl = 1 AND z.tier = 2)
  AND NOT EXISTS (
    SELECT 1
    FROM marks AS k
    WHERE k.tbl = 1
      AND k.tier IN (1, 2)
      AND k.bucket >= m.bucket
      AND k.bucket < m.bucket + 3600000000
)
UNION ALL
SELECT x.bucket, x.agent_id, x.n, x.healthy, x.degraded, x.unhealthy, x.stalled, x.timeout, x.refused, x.error, x.skipped, x.paused, x.latency_n, x.latency_sum, x.latency_min, x.latency_max,
       (
           SELECT v.latency_ms
           FROM health_checks AS v
           WHERE v.agent_id = x.agent_id
             AND v.ts >= x.bucket
             AND v.ts < x.bucket + 3600000000
             AND v.latency_ms IS NOT NULL
           ORDER BY v.ts DESC, v.latency_ms DESC
           LIMIT 1
       ) AS latency_last,
       x.late_max,
       (
           SELECT v.outcome
           FROM health_checks AS v
           WHERE v.agent_id = x.agent_id
             AND v.ts >= x.bucket
             AND v.ts < x.bucket + 3600000000
           ORDER BY v.ts DESC, v.outcome DESC
           LIMIT 1
       ) AS last_outcome,
       x.latency_bins
FROM (
SELECT p.bucket AS bucket,
       s.agent_id,
       sum(coalesce(m.n, r.ts IS NOT NULL)) AS n,
       sum(coalesce(m.healthy, r.outcome = 0)) AS healthy,
       sum(coalesce(m.degraded, r.outcome = 1)) AS degraded,
       sum(coalesce(m.unhealthy, r.outcome = 2)) AS unhealthy,
       sum(coalesce(m.stalled, r.outcome = 3)) AS stalled,
       sum(coalesce(m.timeout, r.outcome = 4)) AS timeout,
       sum(coalesce(m.refused, r.outcome = 5)) AS refused,
       sum(coalesce(m.error, r.outcome = 6)) AS error,
       sum(coalesce(m.skipped, r.outcome = 7)) AS skipped,
       sum(coalesce(m.paused, r.outcome = 8)) AS paused,
       sum(coalesce(m.latency_n, r.latency_ms IS NOT NULL)) AS latency_n,
       sum(coalesce(m.latency_sum, r.latency_ms)) AS latency_sum,
       min(coalesce(m.latency_min, r.latency_ms)) AS latency_min,
       max(coalesce(m.latency_max, r.latency_ms)) AS latency_max,
       max(coalesce(m.late_max, r.late_ms)) AS late_max,
       latency_bins_merge(coalesce(m.latency_bins, '[[' || latency_bin(r.latency_ms) || ',1]]')) AS latency_bins
FROM (
    SELECT k.bucket - k.bucket % 3600000000 AS bucket,
           k.bucket AS raw_from, k.bucket + 60000000 AS raw_to,
           NULL AS m_from, NULL AS m_to
    FROM marks AS k
    WHERE k.tbl = 1
      AND k.tier = 1
    UNION
    SELECT k.bucket - k.bucket % 3600000000,
           NULL, NULL,
           k.bucket - k.bucket % 3600000000, k.bucket - k.bucket % 3600000000 + 3600000000
    FROM marks AS k
    WHERE k.tbl = 1
      AND k.tier IN (1, 2)
) AS p
CROSS JOIN health_checks_series AS s
LEFT JOIN health_checks AS r ON r.agent_id = s.agent_id AND r.ts >= p.raw_from AND r.ts < p.raw_to
LEFT JOIN health_1m_mat AS m ON m.agent_id = s.agent_id AND m.bucket >= p.m_from AND m.bucket < p.m_to AND NOT EXISTS (
    SELECT 1
    FROM marks AS k
    WHERE k.tbl = 1
      AND k.tier IN (1)
      AND k.bucket >= m.bucket
      AND k.bucket < m.bucket + 60000000
)
GROUP BY p.bucket, s.agent_id
HAVING sum(coalesce(m.n, r.ts IS NOT NULL)) > 0
) AS x
) AS u;
CREATE INDEX health_1d_mat_bucket ON health_1d_mat (bucket);
CREATE VIEW health_1d AS
SELECT u.bucket, u.agent_id, u.n, u.healthy, u.degraded, u.unhealthy, u.stalled, u.timeout, u.refused, u.error, u.skipped, u.paused, u.latency_n, u.latency_sum, u.latency_min, u.latency_max, u.latency_last, u.late_max, u.last_outcome, u.latency_bins, u.latency_sum / nullif(u.latency_n, 0) AS latency_avg
FROM (
SELECT m.bucket, m.agent_id, m.n, m.healthy, m.degraded, m.unhealthy, m.stalled, m.timeout, m.refused, m.error, m.skipped, m.paused, m.latency_n, m.latency_sum, m.latency_min, m.latency_max, m.latency_last, m.late_max, m.last_outcome, m.latency_bins
FROM health_1d_mat AS m
WHERE +m.bucket >= (SELECT z.dropped_before FROM horizons AS z WHERE z.tbl = 1 AND z.tier = 3)
  AND NOT EXISTS (
    SELECT 1
    FROM marks AS k
    WHERE k.tbl = 1
      AND k.tier IN (1, 2, 3)
      AND k.bucket >= m.bucket
      AND k.bucket < m.bucket + 86400000000
)
UNION ALL
SELECT x.bucket, x.agent_id, x.n, x.healthy, x.degraded, x.unhealthy, x.stalled, x.timeout, x.refused, x.error, x.skipped, x.paused, x.latency_n, x.latency_sum, x.latency_min, x.latency_max,
       (
           SELECT v.latency_ms
           FROM health_checks AS v
           WHERE v.agent_id = x.agent_id
             AND v.ts >= x.bucket
             AND v.ts < x.bucket + 86400000000
             AND v.latency_ms IS NOT NULL
           ORDER BY v.ts DESC, v.latency_ms DESC
           LIMIT 1
       ) AS latency_last,
       x.late_max,
       (
           SELECT v.outcome
           FROM health_checks AS v
           WHERE v.agent_id = x.agent_id
             AND v.ts >= x.bucket
             AND v.ts < x.bucket + 86400000000
           ORDER BY v.ts DESC, v.outcome DESC
           LIMIT 1
       ) AS last_outcome,
       x.latency_bins
FROM (
SELECT p.bucket AS bucket,
       s.agent_id,
       sum(coalesce(h.n, m.n, r.ts IS NOT NULL)) AS n,
       sum(coalesce(h.healthy, m.healthy, r.outcome = 0)) AS healthy,
       sum(coalesce(h.degraded, m.degraded, r.outcome = 1)) AS degraded,
       sum(coalesce(h.unhealthy, m.unhealthy, r.outcome = 2)) AS unhealthy,
       sum(coalesce(h.stalled, m.stalled, r.outcome = 3)) AS stalled,
       sum(coalesce(h.timeout, m.timeout, r.outcome = 4)) AS timeout,
       sum(coalesce(h.refused, m.refused, r.outcome = 5)) AS refused,
       sum(coalesce(h.error, m.error, r.outcome = 6)) AS error,
       sum(coalesce(h.skipped, m.skipped, r.outcome = 7)) AS skipped,
       sum(coalesce(h.paused, m.paused, r.outcome = 8)) AS paused,
       sum(coalesce(h.latency_n, m.latency_n, r.latency_ms IS NOT NULL)) AS latency_n,
       sum(coalesce(h.latency_sum, m.latency_sum, r.latency_ms)) AS latency_sum,
       min(coalesce(h.latency_min, m.latency_min, r.latency_ms)) AS latency_min,
       max(coalesce(h.latency_max, m.latency_max, r.latency_ms)) AS latency_max,
       max(coalesce(h.late_max, m.late_max, r.late_ms)) AS late_max,
       latency_bins_merge(coalesce(h.latency_bins, m.latency_bins, '[[' || latency_bin(r.latency_ms) || ',1]]')) AS latency_bins
FROM (
    SELECT k.bucket - k.bucket % 86400000000 AS bucket,
           k.bucket AS raw_from, k.bucket + 60000000 AS raw_to,
           NULL AS m_from, NULL AS m_to,
           NULL AS h_from, NULL AS h_to
    FROM marks AS k
    WHERE k.tbl = 1
      AND k.tier = 1
    UNION
    SELECT k.bucket - k.bucket % 86400000000,
           NULL, NULL,
           k.bucket - k.bucket % 3600000000, k.bucket - k.bucket % 3600000000 + 3600000000,
           NULL, NULL
    FROM marks AS k
    WHERE k.tbl = 1
      AND k.tier IN (1, 2)
    UNION
    SELECT k.bucket - k.bucket % 86400000000,
           NULL, NULL,
           NULL, NULL,
           k.bucket - k.bucket % 86400000000, k.bucket - k.bucket % 86400000000 + 86400000000
    FROM marks AS k
    WHERE k.tbl = 1
      AND k.tier IN (1, 2, 3)
) AS p
CROSS JOIN health_checks_series AS s
LEFT JOIN health_checks AS r ON r.agent_id = s.agent_id AND r.ts >= p.raw_from AND r.ts < p.raw_to
LEFT JOIN health_1m_mat AS m ON m.agent_id = s.agent_id AND m.bucket >= p.m_from AND m.bucket < p.m_to AND NOT EXISTS (
    SELECT 1
    FROM marks AS k
    WHERE k.tbl = 1
      AND k.tier IN (1)
      AND k.bucket >= m.bucket
      AND k.bucket < m.bucket + 60000000
)
LEFT JOIN health_1h_mat AS h ON h.agent_id = s.agent_id AND h.bucket >= p.h_from AND h.bucket < p.h_to AND NOT EXISTS (
    SELECT 1
    FROM marks AS k
    WHERE k.tbl = 1
      AND k.tier IN (1, 2)
      AND k.bucket >= h.bucket
      AND k.bucket < h.bucket + 3600000000
)
GROUP BY p.bucket, s.agent_id
HAVING sum(coalesce(h.n, m.n, r.ts IS NOT NULL)) > 0
) AS x
) AS u;
CREATE INDEX agent_metrics_entity ON agent_metrics (agent_id, metric_id, ts);
CREATE INDEX agent_metrics_ts ON agent_metrics (ts);
CREATE INDEX agent_metrics_1m_mat_bucket ON agent_metrics_1m_mat (bucket);
CREATE VIEW agent_metrics_1m AS
SELECT u.bucket, u.agent_id, u.metric_id, u.n, u.sum, u.min, u.max, u.last, u.sum / nullif(u.n, 0) AS avg
FROM (
SELECT m.bucket, m.agent_id, m.metric_id, m.n, m.sum, m.min, m.max, m.last
FROM agent_metrics_1m_mat AS m
WHERE +m.bucket >= (SELECT z.dropped_before FROM horizons AS z WHERE z.tbl = 2 AND z.tier = 1)
  AND NOT EXISTS (
    SELECT 1
    FROM marks AS k
    WHERE k.tbl = 2
      AND k.tier IN (1)
      AND k.bucket >= m.bucket
      AND k.bucket < m.bucket + 60000000
)
UNION ALL
SELECT x.bucket, x.agent_id, x.metric_id, x.n, x.sum, x.min, x.max,
       (
           SELECT v.value
           FROM agent_metrics AS v
           WHERE v.agent_id = x.agent_id
             AND v.metric_id = x.metric_id
             AND v.ts >= x.bucket
             AND v.ts < x.bucket + 60000000
           ORDER BY v.ts DESC, v.value DESC
           LIMIT 1
       ) AS last
FROM (
SELECT d.bucket AS bucket,
       r.agent_id, r.metric_id,
       sum(r.ts IS NOT NULL) AS n,
       sum(r.value) AS sum,
       min(r.value) AS min,
       max(r.value) AS max
FROM (
    SELECT DISTINCT k.bucket
    FROM marks AS k
    WHERE k.tbl = 2
      AND k.tier = 1
) AS d
CROSS JOIN agent_metrics AS r ON r.ts >= d.bucket AND r.ts < d.bucket + 60000000
GROUP BY d.bucket, r.agent_id, r.metric_id
HAVING sum(r.ts IS NOT NULL) > 0
) AS x
) AS u;
CREATE INDEX agent_metrics_1h_mat_bucket ON agent_metrics_1h_mat (bucket);
CREATE VIEW agent_metrics_1h AS
SELECT u.bucket, u.agent_id, u.metric_id, u.n, u.sum, u.min, u.max, u.last, u.sum / nullif(u.n, 0) AS avg
FROM (
SELECT m.bucket, m.agent_id, m.metric_id, m.n, m.sum, m.min, m.max, m.last
FROM agent_metrics_1h_mat AS m
WHERE +m.bucket >= (SELECT z.dropped_before FROM horizons AS z WHERE z.tbl = 2 AND z.tier = 2)
  AND NOT EXISTS (
    SELECT 1
    FROM marks AS k
    WHERE k.tbl = 2
      AND k.tier IN (1, 2)
      AND k.bucket >= m.bucket
      AND k.bucket < m.bucket + 3600000000
)
UNION ALL
SELECT x.bucket, x.agent_id, x.metric_id, x.n, x.sum, x.min, x.max,
       (
           SELECT v.value
           FROM agent_metrics AS v
           WHERE v.agent_id = x.agent_id
             AND v.metric_id = x.metric_id
             AND v.ts >= x.bucket
             AND v.ts < x.bucket + 3600000000
           ORDER BY v.ts DESC, v.value DESC
           LIMIT 1
       ) AS last
FROM (
SELECT p.bucket AS bucket,
       s.agent_id, s.metric_id,
       sum(coalesce(m.n, r.ts IS NOT NULL)) AS n,
       sum(coalesce(m.sum, r.value)) AS sum,
       min(coalesce(m.min, r.value)) AS min,
       max(coalesce(m.max, r.value)) AS max
FROM (
    SELECT k.bucket - k.bucket % 3600000000 AS bucket,
           k.bucket AS raw_from, k.bucket + 60000000 AS raw_to,
           NULL AS m_from, NULL AS m_to
    FROM marks AS k
    WHERE k.tbl = 2
      AND k.tier = 1
    UNION
    SELECT k.bucket - k.bucket % 3600000000,
           NULL, NULL,
           k.bucket - k.bucket % 3600000000, k.bucket - k.bucket % 3600000000 + 3600000000
    FROM marks AS k
    WHERE k.tbl = 2
      AND k.tier IN (1, 2)
) AS p
CROSS JOIN agent_metrics_series AS s
LEFT JOIN agent_metrics AS r ON r.agent_id = s.agent_id AND r.metric_id = s.metric_id AND r.ts >= p.raw_from AND r.ts < p.raw_to
LEFT JOIN agent_metrics_1m_mat AS m ON m.agent_id = s.agent_id AND m.metric_id = s.metric_id AND m.bucket >= p.m_from AND m.bucket < p.m_to AND NOT EXISTS (
    SELECT 1
    FROM marks AS k
    WHERE k.tbl = 2
      AND k.tier IN (1)
      AND k.bucket >= m.bucket
      AND k.bucket < m.bucket + 60000000
)
GROUP BY p.bucket, s.agent_id, s.metric_id
HAVING sum(coalesce(m.n, r.ts IS NOT NULL)) > 0
) AS x
) AS u;
CREATE INDEX agent_metrics_1d_mat_bucket ON agent_metrics_1d_mat (bucket);
CREATE VIEW agent_metrics_1d AS
SELECT u.bucket, u.agent_id, u.metric_id, u.n, u.sum, u.min, u.max, u.last, u.sum / nullif(u.n, 0) AS avg
FROM (
SELECT m.bucket, m.agent_id, m.metric_id, m.n, m.sum, m.min, m.max, m.last
FROM agent_metrics_1d_mat AS m
WHERE +m.bucket >= (SELECT z.dropped_before FROM horizons AS z WHERE z.tbl = 2 AND z.tier = 3)
  AND NOT EXISTS (
    SELECT 1
    FROM marks AS k
    WHERE k.tbl = 2
      AND k.tier IN (1, 2, 3)
      AND k.bucket >= m.bucket
      AND k.bucket < m.bucket + 86400000000
)
UNION ALL
SELECT x.bucket, x.agent_id, x.metric_id, x.n, x.sum, x.min, x.max,
       (
           SELECT v.value
           FROM agent_metrics AS v
           WHERE v.agent_id = x.agent_id
             AND v.metric_id = x.metric_id
             AND v.ts >= x.bucket
             AND v.ts < x.bucket + 86400000000
           ORDER BY v.ts DESC, v.value DESC
           LIMIT 1
       ) AS last
FROM (
SELECT p.bucket AS bucket,
       s.agent_id, s.metric_id,
       sum(coalesce(h.n, m.n, r.ts IS NOT NULL)) AS n,
       sum(coalesce(h.sum, m.sum, r.value)) AS sum,
       min(coalesce(h.min, m.min, r.value)) AS min,
       max(coalesce(h.max, m.max, r.value)) AS max
FROM (
    SELECT k.bucket - k.bucket % 86400000000 AS bucket,
           k.bucket AS raw_from, k.bucket + 60000000 AS raw_to,
           NULL AS m_from, NULL AS m_to,
           NULL AS h_from, NULL AS h_to
    FROM marks AS k
    WHERE k.tbl = 2
      AND k.tier = 1
    UNION
    SELECT k.bucket - k.bucket % 86400000000,
           NULL, NULL,
           k.bucket - k.bucket % 3600000000, k.bucket - k.bucket % 3600000000 + 3600000000,
           NULL, NULL
    FROM marks AS k
    WHERE k.tbl = 2
      AND k.tier IN (1, 2)
    UNION
    SELECT k.bucket - k.bucket % 86400000000,
           NULL, NULL,
           NULL, NULL,
           k.bucket - k.bucket % 86400000000, k.bucket - k.bucket % 86400000000 + 86400000000
    FROM marks AS k
    WHERE k.tbl = 2
      AND k.tier IN (1, 2, 3)
) AS p
CROSS JOIN agent_metrics_series AS s
LEFT JOIN agent_metrics AS r ON r.agent_id = s.agent_id AND r.metric_id = s.metric_id AND r.ts >= p.raw_from AND r.ts < p.raw_to
LEFT JOIN agent_metrics_1m_mat AS m ON m.agent_id = s.agent_id AND m.metric_id = s.metric_id AND m.bucket >= p.m_from AND m.bucket < p.m_to AND NOT EXISTS (
    SELECT 1
    FROM marks AS k
    WHERE k.tbl = 2
      AND k.tier IN (1)
      AND k.bucket >= m.bucket
      AND k.bucket < m.bucket + 60000000
)
LEFT JOIN agent_metrics_1h_mat AS h ON h.agent_id = s.agent_id AND h.metric_id = s.metric_id AND h.bucket >= p.h_from AND h.bucket < p.h_to AND NOT EXISTS (
    SELECT 1
    FROM marks AS k
    WHERE k.tbl = 2
      AND k.tier IN (1, 2)
      AND k.bucket >= h.bucket
      AND k.bucket < h.bucket + 3600000000
)
GROUP BY p.bucket, s.agent_id, s.metric_id
HAVING sum(coalesce(h.n, m.n, r.ts IS NOT NULL)) > 0
) AS x
) AS u;
CREATE INDEX system_metrics_entity ON system_metrics (host_id, metric_id, ts);
CREATE INDEX system_metrics_ts ON system_metrics (ts);
CREATE INDEX system_metrics_1m_mat_bucket ON system_metrics_1m_mat (bucket);
CREATE VIEW system_metrics_1m AS
SELECT u.bucket, u.host_id, u.metric_id, u.n, u.sum, u.min, u.max, u.last, u.sum / nullif(u.n, 0) AS avg
FROM (
SELECT m.bucket, m.host_id, m.metric_id, m.n, m.sum, m.min, m.max, m.last
FROM system_metrics_1m_mat AS m
WHERE +m.bucket >= (SELECT z.dropped_before FROM horizons AS z WHERE z.tbl = 3 AND z.tier = 1)
  AND NOT EXISTS (
    SELECT 1
    FROM marks AS k
    WHERE k.tbl = 3
      AND k.tier IN (1)
      AND k.bucket >= m.bucket
      AND k.bucket < m.bucket + 60000000
)
UNION ALL
SELECT x.bucket, x.host_id, x.metric_id, x.n, x.sum, x.min, x.max,
       (
           SELECT v.value
           FROM system_metrics AS v
           WHERE v.host_id = x.host_id
             AND v.metric_id = x.metric_id
             AND v.ts >= x.bucket
             AND v.ts < x.bucket + 60000000
           ORDER BY v.ts DESC, v.value DESC
           LIMIT 1
       ) AS last
FROM (
SELECT d.bucket AS bucket,
       r.host_id, r.metric_id,
       sum(r.ts IS NOT NULL) AS n,
       sum(r.value) AS sum,
       min(r.value) AS min,
       max(r.value) AS max
FROM (
    SELECT DISTINCT k.bucket
    FROM marks AS k
    WHERE k.tbl = 3
      AND k.tier = 1
) AS d
CROSS JOIN system_metrics AS r ON r.ts >= d.bucket AND r.ts < d.bucket + 60000000
GROUP BY d.bucket, r.host_id, r.metric_id
HAVING sum(r.ts IS NOT NULL) > 0
) AS x
) AS u;
CREATE INDEX system_metrics_1h_mat_bucket ON system_metrics_1h_mat (bucket);
CREATE VIEW system_metrics_1h AS
SELECT u.bucket, u.host_id, u.metric_id, u.n, u.sum, u.min, u.max, u.last, u.sum / nullif(u.n, 0) AS avg
FROM (
SELECT m.bucket, m.host_id, m.metric_id, m.n, m.sum, m.min, m.max, m.last
FROM system_metrics_1h_mat AS m
WHERE +m.bucket >= (SELECT z.dropped_before FROM horizons AS z WHERE z.tbl = 3 AND z.tier = 2)
  AND NOT EXISTS (
    SELECT 1
    FROM marks AS k
    WHERE k.tbl = 3
      AND k.tier IN (1, 2)
      AND k.bucket >= m.bucket
      AND k.bucket < m.bucket + 3600000000
)
UNION ALL
SELECT x.bucket, x.host_id, x.metric_id, x.n, x.sum, x.min, x.max,
       (
           SELECT v.value
           FROM system_metrics AS v
           WHERE v.host_id = x.host_id
             AND v.metric_id = x.metric_id
             AND v.ts >= x.bucket
             AND v.ts < x.bucket + 3600000000
           ORDER BY v.ts DESC, v.value DESC
           LIMIT 1
       ) AS last
FROM (
SELECT p.bucket AS bucket,
       s.host_id, s.metric_id,
       sum(coalesce(m.n, r.ts IS NOT NULL)) AS n,
       sum(coalesce(m.sum, r.value)) AS sum,
       min(coalesce(m.min, r.value)) AS min,
       max(coalesce(m.max, r.value)) AS max
FROM (
    SELECT k.bucket - k.bucket % 3600000000 AS bucket,
           k.bucket AS raw_from, k.bucket + 60000000 AS raw_to,
           NULL AS m_from, NULL AS m_to
    FROM marks AS k
    WHERE k.tbl = 3
      AND k.tier = 1
    UNION
    SELECT k.bucket - k.bucket % 3600000000,
           NULL, NULL,
           k.bucket - k.bucket % 3600000000, k.bucket - k.bucket % 3600000000 + 3600000000
    FROM marks AS k
    WHERE k.tbl = 3
      AND k.tier IN (1, 2)
) AS p
CROSS JOIN system_metrics_series AS s
LEFT JOIN system_metrics AS r ON r.host_id = s.host_id AND r.metric_id = s.metric_id AND r.ts >= p.raw_from AND r.ts < p.raw_to
LEFT JOIN system_metrics_1m_mat AS m ON m.host_id = s.host_id AND m.metric_id = s.metric_id AND m.bucket >= p.m_from AND m.bucket < p.m_to AND NOT EXISTS (
    SELECT 1
    FROM marks AS k
    WHERE k.tbl = 3
      AND k.tier IN (1)
      AND k.bucket >= m.bucket
      AND k.bucket < m.bucket + 60000000
)
GROUP BY p.bucket, s.host_id, s.metric_id
HAVING sum(coalesce(m.n, r.ts IS NOT NULL)) > 0
) AS x
) AS u;
CREATE INDEX system_metrics_1d_mat_bucket ON system_metrics_1d_mat (bucket);
CREATE VIEW system_metrics_1d AS
SELECT u.bucket, u.host_id, u.metric_id, u.n, u.sum, u.min, u.max, u.last, u.sum / nullif(u.n, 0) AS avg
FROM (
SELECT m.bucket, m.host_id, m.metric_id, m.n, m.sum, m.min, m.max, m.last
FROM system_metrics_1d_mat AS m
WHERE +m.bucket >= (SELECT z.dropped_before FROM horizons AS z WHERE z.tbl = 3 AND z.tier = 3)
  AND NOT EXISTS (
    SELECT 1
    FROM marks AS k
    WHERE k.tbl = 3
      AND k.tier IN (1, 2, 3)
      AND k.bucket >= m.bucket
      AND k.bucket < m.bucket + 86400000000
)
UNION ALL
SELECT x.bucket, x.host_id, x.metric_id, x.n, x.sum, x.min, x.max,
       (
           SELECT v.value
           FROM system_metrics AS v
           WHERE v.host_id = x.host_id
             AND v.metric_id = x.metric_id
             AND v.ts >= x.bucket
             AND v.ts < x.bucket + 86400000000
           ORDER BY v.ts DESC, v.value DESC
           LIMIT 1
       ) AS last
FROM (
SELECT p.bucket AS bucket,
       s.host_id, s.metric_id,
       sum(coalesce(h.n, m.n, r.ts IS NOT NULL)) AS n,
       sum(coalesce(h.sum, m.sum, r.value)) AS sum,
       min(coalesce(h.min, m.min, r.value)) AS min,
       max(coalesce(h.max, m.max, r.value)) AS max
FROM (
    SELECT k.bucket - k.bucket % 86400000000 AS bucket,
           k.bucket AS raw_from, k.bucket + 60000000 AS raw_to,
           NULL AS m_from, NULL AS m_to,
           NULL AS h_from, NULL AS h_to
    FROM marks AS k
    WHERE k.tbl = 3
      AND k.tier = 1
    UNION
    SELECT k.bucket - k.bucket % 86400000000,
           NULL, NULL,
           k.bucket - k.bucket % 3600000000, k.bucket - k.bucket % 3600000000 + 3600000000,
           NULL, NULL
    FROM marks AS k
    WHERE k.tbl = 3
      AND k.tier IN (1, 2)
    UNION
    SELECT k.bucket - k.bucket % 86400000000,
           NULL, NULL,
           NULL, NULL,
           k.bucket - k.bucket % 86400000000, k.bucket - k.bucket % 86400000000 + 86400000000
    FROM marks AS k
    WHERE k.tbl = 3
      AND k.tier IN (1, 2, 3)
) AS p
CROSS JOIN system_metrics_series AS s
LEFT JOIN system_metrics AS r ON r.host_id = s.host_id AND r.metric_id = s.metric_id AND r.ts >= p.raw_from AND r.ts < p.raw_to
LEFT JOIN system_metrics_1m_mat AS m ON m.host_id = s.host_id AND m.metric_id = s.metric_id AND m.bucket >= p.m_from AND m.bucket < p.m_to AND NOT EXISTS (
    SELECT 1
    FROM marks AS k
    WHERE k.tbl = 3
      AND k.tier IN (1)
      AND k.bucket >= m.bucket
      AND k.bucket < m.bucket + 60000000
)
LEFT JOIN system_metrics_1h_mat AS h ON h.host_id = s.host_id AND h.metric_id = s.metric_id AND h.bucket >= p.h_from AND h.bucket < p.h_to AND NOT EXISTS (
    SELECT 1
    FROM marks AS k
    WHERE k.tbl = 3
      AND k.tier IN (1, 2)
      AND k.bucket >= h.bucket
      AND k.bucket < h.bucket + 3600000000
)
GROUP BY p.bucket, s.host_id, s.metric_id
HAVING sum(coalesce(h.n, m.n, r.ts IS NOT NULL)) > 0
) AS x
) AS u;
CREATE VIEW observation AS
WITH clock AS (
    SELECT CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000 AS now_us
)
SELECT count(s.id) > 0 AS live,
       coalesce(min(max(coalesce(s.observed_to, s.started_at)), max(k.now_us)), max(k.now_us)) AS observed_to
FROM clock AS k
LEFT JOIN collector_sessions AS s ON s.ended_at IS NULL
    AND s.last_seen_at > k.now_us - 60000000
    AND s.id = (SELECT n.id FROM collector_sessions AS n ORDER BY n.last_seen_at DESC, n.id DESC LIMIT 1);
CREATE VIEW fleet_health AS
WITH clock AS (
    SELECT CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000 AS now_us
)
SELECT a.id AS agent_id,
       a.name AS agent,
       a.type,
       a.labels,
       a.state,
       a.status,
       a.status_due AS since,
       a.status_reason AS reason,
       l.ts AS last_due,
       CASE l.outcome
           WHEN 0 THEN 'healthy' WHEN 1 THEN 'degraded' WHEN 2 THEN 'unhealthy' WHEN 3 THEN 'stalled'
           WHEN 4 THEN 'timeout' WHEN 5 THEN 'refused' WHEN 6 THEN 'error' WHEN 8 THEN 'paused'
       END AS last_outcome,
       l.latency_ms AS last_latency_ms,
       a.interval_s,
       s.from_ts IS NOT NULL AS scheduled,
       a.state = 'active'
           AND s.from_ts IS NOT NULL
           AND max(coalesce(l.ts, s.from_ts), s.from_ts)
               < k.now_us - CAST((3 * a.interval_s + 10) * 1000000 AS INTEGER) AS stale
FROM clock AS k
CROSS JOIN agents AS a
LEFT JOIN agent_schedules AS s ON s.agent_id = a.id AND s.to_ts IS NULL AND s.state = 'active'
LEFT JOIN health_checks AS l ON l.rowid = (
    SELECT c.rowid
    FROM health_checks AS c
    WHERE c.agent_id = a.id
      AND c.ts >= k.now_us - CAST(max(300, 3 * a.interval_s + 10) * 1000000 AS INTEGER)
      AND c.outcome <> 7
    ORDER BY c.ts DESC
    LIMIT 1
)
WHERE a.state <> 'retired';
CREATE VIEW incidents AS
WITH clock AS (
    SELECT CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000 AS now_us
)
SELECT a.id AS agent_id,
       a.name AS agent,
       a.type,
       i.started_at,
       coalesce(i.up_at, max(a.retired_at, i.last_ts)) AS ended_at,
       (coalesce(i.up_at, max(a.retired_at, i.last_ts), k.now_us) - i.started_at) / 1000000.0 AS duration_s,
       i.first_status,
       i.last_status,
       i.reason,
       i.up_at IS NULL AND a.retired_at IS NULL AS open
FROM clock AS k
CROSS JOIN (
    SELECT n.agent_id,
           n.ts AS started_at,
           n.up_at,
           n.last_ts,
           n.to_status AS first_status,
           max(CASE WHEN n.place = n.last_down THEN n.to_status END) OVER w AS last_status,
           max(CASE WHEN n.place = n.told THEN n.reason END) OVER w AS reason,
           n.place = n.first_down AS kept
    FROM (
        SELECT e.agent_id,
               e.incident,
               e.place,
               e.ts,
               e.to_status,
               e.reason,
               min(e.ts) FILTER (WHERE NOT e.down) OVER w AS up_at,
               max(e.ts) OVER w AS last_ts,
               min(e.place) OVER w AS first_down,
               max(e.place) FILTER (WHERE e.down) OVER w AS last_down,
               min(e.place) FILTER (WHERE e.down AND e.reason <> '') OVER w AS told
        FROM (
            SELECT d.agent_id,
                   d.place,
                   d.ts,
                   d.to_status,
                   d.reason,
                   d.down,
                   sum(d.down AND NOT d.was_down) OVER (
                       PARTITION BY d.agent_id ORDER BY d.place ROWS UNBOUNDED PRECEDING
                   ) AS incident
            FROM (
                SELECT s.agent_id,
                       s.ts,
                       s.to_status,
                       s.reason,
                       s.down,
                       row_number() OVER w AS place,
                       lag(s.down, 1, 0) OVER w AS was_down
                FROM (
                    SELECT v.agent_id,
                           v.id,
                           v.ts,
                           v.to_status,
                           v.reason,
                           v.to_status IN ('unhealthy', 'stalled', 'timeout', 'refused', 'error') AS down
                    FROM status_events AS v
                ) AS s
                WINDOW w AS (PARTITION BY s.agent_id ORDER BY s.ts, s.id)
            ) AS d
        ) AS e
        WHERE e.incident > 0
        WINDOW w AS (PARTITION BY e.agent_id, e.incident)
    ) AS n
    WINDOW w AS (PARTITION BY n.agent_id, n.incident)
) AS i
JOIN agents AS a ON a.id = i.agent_id
WHERE i.kept;
CREATE VIEW availability AS
WITH RECURSIVE buckets AS (
    SELECT max(min(f.from_ts) / 3600000000 * 3600000000, max(z.dropped_before)) AS bucket,
           max(o.observed_to) AS observed_to
    FROM agent_schedules AS f
    CROSS JOIN horizons AS z
    CROSS JOIN observation AS o
    WHERE z.tbl = 1
      AND z.tier = 2
    UNION ALL
    SELECT h.bucket + 3600000000, h.observed_to
    FROM buckets AS h
    WHERE h.bucket + 3600000000 <= h.observed_to
), lost_buckets AS (
    SELECT l.id, l.from_due / 3600000000 * 3600000000 AS bucket, l.to_due
    FROM losses AS l
    UNION ALL
    SELECT g.id, g.bucket + 3600000000, g.to_due
    FROM lost_buckets AS g
    WHERE g.bucket + 3600000000 <= g.to_due
)
SELECT t.bucket,
       t.agent_id,
       t.agent,
       t.type,
       max(t.slots - t.paused, 0) AS expected,
       t.up,
       t.down,
       max(t.slots - t.paused - t.up - t.down, 0) AS unobserved,
       t.skipped,
       t.lost,
       t.paused,
       CAST(t.up AS REAL) / nullif(t.up + t.down, 0) AS availability,
       min(CAST(t.up + t.down AS REAL) / nullif(max(t.slots - t.paused, 0), 0), 1.0) AS coverage
FROM (
    SELECT p.bucket,
           p.agent_id,
           p.agent,
           p.type,
           sum(p.slots) OVER w AS slots,
           sum(p.up) OVER w AS up,
           sum(p.down) OVER w AS down,
           sum(p.skipped) OVER w AS skipped,
           sum(p.lost) OVER w AS lost,
           max(sum(p.paused_slots) OVER w, sum(p.paused_checks) OVER w) AS paused,
           p.place = min(p.place) OVER w AS kept
    FROM (
        SELECT n.bucket,
               n.agent_id,
               n.agent,
               n.type,
               n.slots,
               CASE WHEN n.state = 'paused' THEN n.slots ELSE 0 END AS paused_slots,
               0 AS up,
               0 AS down,
               0 AS skipped,
               0 AS paused_checks,
               0 AS lost,
               3 * n.id AS place
        FROM (
            SELECT h.bucket,
                   s.agent_id,
                   a.name AS agent,
                   a.type,
                   s.id,
                   s.state,
                   slots_between(
                       h.bucket, min(h.bucket + 3600000000, h.observed_to),
                       s.from_ts, s.to_ts, s.interval_s, s.offset_s
                   ) AS slots
            FROM buckets AS h
            CROSS JOIN agent_schedules AS s ON s.from_ts < h.bucket + 3600000000
                AND (s.to_ts IS NULL OR s.to_ts > h.bucket)
            JOIN agents AS a ON a.id = s.agent_id
        ) AS n
        UNION ALL
        SELECT c.bucket,
               c.agent_id,
               a.name,
               a.type,
               0,
               0,
               c.healthy + c.degraded,
               c.unhealthy + c.stalled + c.timeout + c.refused + c.error,
               c.skipped,
               c.paused,
               0,
               1
        FROM health_1h AS c
        JOIN agents AS a ON a.id = c.agent_id
        UNION ALL
        SELECT g.bucket,
               l.agent_id,
               a.name,
               a.type,
               0,
               0,
               0,
               0,
               0,
               0,
               lost_between(g.bucket, g.bucket + 3600000000, l.from_due, l.to_due, l.n),
               3 * l.id + 2
        FROM lost_buckets AS g
        JOIN losses AS l ON l.id = g.id
        JOIN agents AS a ON a.id = l.agent_id
    ) AS p
    WINDOW w AS (PARTITION BY p.bucket, p.agent_id, p.agent, p.type)
) AS t
WHERE t.kept;
CREATE VIEW availability_1d AS
WITH RECURSIVE buckets AS (
    SELECT max(min(f.from_ts) / 86400000000 * 86400000000, max(z.dropped_before)) AS bucket,
           max(o.observed_to) AS observed_to
    FROM agent_schedules AS f
    CROSS JOIN horizons AS z
    CROSS JOIN observation AS o
    WHERE z.tbl = 1
      AND z.tier = 3
    UNION ALL
    SELECT h.bucket + 86400000000, h.observed_to
    FROM buckets AS h
    WHERE h.bucket + 86400000000 <= h.observed_to
), lost_buckets AS (
    SELECT l.id, l.from_due / 86400000000 * 86400000000 AS bucket, l.to_due
    FROM losses AS l
    UNION ALL
    SELECT g.id, g.bucket + 86400000000, g.to_due
    FROM lost_buckets AS g
    WHERE g.bucket + 86400000000 <= g.to_due
)
SELECT t.bucket,
       t.agent_id,
       t.agent,
       t.type,
       max(t.slots - t.paused, 0) AS expected,
       t.up,
       t.down,
       max(t.slots - t.paused - t.up - t.down, 0) AS unobserved,
       t.skipped,
       t.lost,
       t.paused,
       CAST(t.up AS REAL) / nullif(t.up + t.down, 0) AS availability,
       min(CAST(t.up + t.down AS REAL) / nullif(max(t.slots - t.paused, 0), 0), 1.0) AS coverage
FROM (
    SELECT p.bucket,
           p.agent_id,
           p.agent,
           p.type,
           sum(p.slots) OVER w AS slots,
           sum(p.up) OVER w AS up,
           sum(p.down) OVER w AS down,
           sum(p.skipped) OVER w AS skipped,
           sum(p.lost) OVER w AS lost,
           max(sum(p.paused_slots) OVER w, sum(p.paused_checks) OVER w) AS paused,
           p.place = min(p.place) OVER w AS kept
    FROM (
        SELECT n.bucket,
               n.agent_id,
               n.agent,
               n.type,
               n.slots,
               CASE WHEN n.state = 'paused' THEN n.slots ELSE 0 END AS paused_slots,
               0 AS up,
               0 AS down,
               0 AS skipped,
               0 AS paused_checks,
               0 AS lost,
               3 * n.id AS place
        FROM (
            SELECT h.bucket,
                   s.agent_id,
                   a.name AS agent,
                   a.type,
                   s.id,
                   s.state,
                   slots_between(
                       h.bucket, min(h.bucket + 86400000000, h.observed_to),
                       s.from_ts, s.to_ts, s.interval_s, s.offset_s
                   ) AS slots
            FROM buckets AS h
            CROSS JOIN agent_schedules AS s ON s.from_ts < h.bucket + 86400000000
                AND (s.to_ts IS NULL OR s.to_ts > h.bucket)
            JOIN agents AS a ON a.id = s.agent_id
        ) AS n
        UNION ALL
        SELECT c.bucket,
               c.agent_id,
               a.name,
               a.type,
               0,
               0,
               c.healthy + c.degraded,
               c.unhealthy + c.stalled + c.timeout + c.refused + c.error,
               c.skipped,
               c.paused,
               0,
               1
        FROM health_1d AS c
        JOIN agents AS a ON a.id = c.agent_id
        UNION ALL
        SELECT g.bucket,
               l.agent_id,
               a.name,
               a.type,
               0,
               0,
               0,
               0,
               0,
               0,
               lost_between(g.bucket, g.bucket + 86400000000, l.from_due, l.to_due, l.n),
               3 * l.id + 2
        FROM lost_buckets AS g
        JOIN losses AS l ON l.id = g.id
        JOIN agents AS a ON a.id = l.agent_id
    ) AS p
    WINDOW w AS (PARTITION BY p.bucket, p.agent_id, p.agent, p.type)
) AS t
WHERE t.kept;
CREATE VIEW system_load AS
SELECT t.bucket,
       t.host_id,
       t.host,
       t.cpu_percent,
       t.cpu_percent_max,
       t.load1,
       t.load5,
       t.load15,
       t.memory_used_percent,
       t.swap_used_percent,
       t.filesystem_used_percent
FROM (
    SELECT s.bucket,
           h.id AS host_id,
           h.name AS host,
           max(s.avg) FILTER (WHERE m.name = 'cpu_percent') OVER w AS cpu_percent,
           max(s.max) FILTER (WHERE m.name = 'cpu_percent') OVER w AS cpu_percent_max,
           max(s.avg) FILTER (WHERE m.name = 'load1') OVER w AS load1,
           max(s.avg) FILTER (WHERE m.name = 'load5') OVER w AS load5,
           max(s.avg) FILTER (WHERE m.name = 'load15') OVER w AS load15,
           max(s.avg) FILTER (WHERE m.name = 'memory_used_percent') OVER w AS memory_used_percent,
           max(s.avg) FILTER (WHERE m.name = 'swap_used_percent') OVER w AS swap_used_percent,
           max(s.avg) FILTER (WHERE m.name = 'filesystem_used_percent') OVER w AS filesystem_used_percent,
           m.id = min(m.id) OVER w AS kept
    FROM system_metrics_1m AS s
    JOIN metrics AS m ON m.id = s.metric_id
    JOIN hosts AS h ON h.id = s.host_id
    WHERE m.kind = 'gauge'
      AND m.name IN (
          'cpu_percent', 'load1', 'load5', 'load15', 'memory_used_percent', 'swap_used_percent',
          'filesystem_used_percent'
      )
    WINDOW w AS (PARTITION BY s.bucket, h.id, h.name)
) AS t
WHERE t.kept;
CREATE VIEW system_load_1h AS
SELECT t.bucket,
       t.host_id,
       t.host,
       t.cpu_percent,
       t.cpu_percent_max,
       t.load1,
       t.load5,
       t.load15,
       t.memory_used_percent,
       t.swap_used_percent,
       t.filesystem_used_percent
FROM (
    SELECT s.bucket,
           h.id AS host_id,
           h.name AS host,
           max(s.avg) FILTER (WHERE m.name = 'cpu_percent') OVER w AS cpu_percent,
           max(s.max) FILTER (WHERE m.name = 'cpu_percent') OVER w AS cpu_percent_max,
           max(s.avg) FILTER (WHERE m.name = 'load1') OVER w AS load1,
           max(s.avg) FILTER (WHERE m.name = 'load5') OVER w AS load5,
           max(s.avg) FILTER (WHERE m.name = 'load15') OVER w AS load15,
           max(s.avg) FILTER (WHERE m.name = 'memory_used_percent') OVER w AS memory_used_percent,
           max(s.avg) FILTER (WHERE m.name = 'swap_used_percent') OVER w AS swap_used_percent,
           max(s.avg) FILTER (WHERE m.name = 'filesystem_used_percent') OVER w AS filesystem_used_percent,
           m.id = min(m.id) OVER w AS kept
    FROM system_metrics_1h AS s
    JOIN metrics AS m ON m.id = s.metric_id
    JOIN hosts AS h ON h.id = s.host_id
    WHERE m.kind = 'gauge'
      AND m.name IN (
          'cpu_percent', 'load1', 'load5', 'load15', 'memory_used_percent', 'swap_used_percent',
          'filesystem_used_percent'
      )
    WINDOW w AS (PARTITION BY s.bucket, h.id, h.name)
) AS t
WHERE t.kept;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('agents',1);
INSERT INTO "sqlite_sequence" VALUES('hosts',1);
INSERT INTO "sqlite_sequence" VALUES('metrics',2);
INSERT INTO "sqlite_sequence" VALUES('collector_sessions',1);
COMMIT;
