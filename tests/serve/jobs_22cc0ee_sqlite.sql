BEGIN TRANSACTION;
CREATE TABLE gapray_api_keys (
	id VARCHAR(16) NOT NULL,
	name VARCHAR(128) NOT NULL,
	sha256 VARCHAR(64) NOT NULL,
	scopes JSON NOT NULL,
	per_minute INTEGER,
	concurrent INTEGER,
	created_at FLOAT NOT NULL,
	revoked_at FLOAT,
	PRIMARY KEY (id)
);
INSERT INTO "gapray_api_keys" VALUES('0123456789ab','old client','d425b00968a2c6489e801e6bf7428fa3d063540499172123dcb893e963e5243b','["read", "write"]',60,NULL,1790000002.0,NULL);
CREATE TABLE gapray_jobs (
	id VARCHAR(64) NOT NULL,
	owner VARCHAR(64) NOT NULL,
	api VARCHAR(16) NOT NULL,
	kind VARCHAR(16) NOT NULL,
	endpoint VARCHAR(128) NOT NULL,
	model VARCHAR(128) NOT NULL,
	status VARCHAR(16) NOT NULL,
	stage VARCHAR(16) NOT NULL,
	progress INTEGER NOT NULL,
	making JSON NOT NULL,
	input JSON NOT NULL,
	digest VARCHAR(64) NOT NULL,
	idempotency_key VARCHAR(255),
	webhook TEXT,
	created_at FLOAT NOT NULL,
	started_at FLOAT,
	finished_at FLOAT,
	expires_at FLOAT NOT NULL,
	wait_until FLOAT,
	attempt INTEGER NOT NULL,
	tried_before INTEGER NOT NULL,
	timeout_s FLOAT,
	lease_owner VARCHAR(64),
	lease_until FLOAT,
	error_code VARCHAR(64),
	error_message TEXT,
	result JSON,
	PRIMARY KEY (id),
	UNIQUE (owner, idempotency_key)
);
INSERT INTO "gapray_jobs" VALUES('00000000000000000000000000000001','0123456789ab','openai','video','','gapray','completed','',100,'{"product_id": "mug-1", "prompt": "a \"quoted\" na\u00efve prompt; with ''marks''", "frames": 24, "format": "mp4", "seed": 0, "score": true}','{"capture": "uploads/00000000000000000000000000000001/capture.zip", "photos": []}','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','first','https://client.example/hook',1790000003.0,1790000004.0,1790000007.0,1790086403.0,NULL,1,0,NULL,NULL,NULL,NULL,NULL,'{"files": {"turntable.mp4": {"bytes": 1234, "type": "video/mp4"}}, "video": {"name": "turntable.mp4", "frames": 24}, "seconds": {"render": 1.5}}');
INSERT INTO "gapray_jobs" VALUES('00000000000000000000000000000002','0123456789ab','runpod','video','ep','gapray','failed','',0,'{"product_id": "mug-2", "prompt": "a \"quoted\" na\u00efve prompt; with ''marks''", "frames": 24, "format": "mp4", "seed": 0, "score": true}','{"capture": "uploads/00000000000000000000000000000002/capture.zip", "photos": []}','',NULL,'https://client.example/hook2',1790000010.0,1790000011.0,1790000014.0,1790086410.0,NULL,1,0,NULL,NULL,NULL,'mask.too_small','the product is too small',NULL);
INSERT INTO "gapray_jobs" VALUES('00000000000000000000000000000003','0123456789ab','openai','image','','gapray','running','render',40,'{"product_id": "mug-3", "format": "mp4", "seed": 0, "score": true, "still": {"scene": "marble-kitchen", "count": 2, "format": "png", "quality": 95}}','{"capture": "uploads/00000000000000000000000000000003/capture.zip", "photos": []}','',NULL,NULL,1790000015.0,1790000016.0,NULL,1790086415.0,NULL,1,0,NULL,'dispatcher-old',1790000031.0,NULL,NULL,NULL);
INSERT INTO "gapray_jobs" VALUES('00000000000000000000000000000004','0123456789ab','openai','video','','gapray','queued','',0,'{"product_id": "mug-4", "prompt": "a \"quoted\" na\u00efve prompt; with ''marks''", "frames": 24, "format": "mp4", "seed": 0, "score": true}','{"photos": [{"url": "https://client.example/a.jpg", "azimuth_deg": 45.0}]}','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','fourth',NULL,1790000019.0,NULL,NULL,1790086419.0,NULL,0,0,600.0,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "gapray_jobs" VALUES('00000000000000000000000000000005','0123456789ab','openai','package','','gapray','cancelled','',0,'{"product_id": "mug-5", "prompt": "a \"quoted\" na\u00efve prompt; with ''marks''", "frames": 24, "format": "mp4", "seed": 0, "score": true}','{"capture": "uploads/00000000000000000000000000000005/capture.zip", "photos": []}','',NULL,NULL,1790000020.0,NULL,1790000021.0,1790086420.0,NULL,0,0,NULL,NULL,NULL,'job.cancelled','the job was cancelled',NULL);
CREATE TABLE gapray_webhooks (
	id VARCHAR(64) NOT NULL,
	job_id VARCHAR(64) NOT NULL,
	url TEXT NOT NULL,
	tries INTEGER NOT NULL,
	next_at FLOAT,
	delivered_at FLOAT,
	last_error TEXT,
	PRIMARY KEY (id),
	FOREIGN KEY(job_id) REFERENCES gapray_jobs (id) ON DELETE CASCADE
);
INSERT INTO "gapray_webhooks" VALUES('msg_00000000000000000000000000000001','00000000000000000000000000000001','https://client.example/hook',1,NULL,1790000009.0,NULL);
INSERT INTO "gapray_webhooks" VALUES('msg_00000000000000000000000000000002','00000000000000000000000000000002','https://client.example/hook2',0,1790000014.0,NULL,NULL);
CREATE INDEX gapray_jobs_queue ON gapray_jobs (status, created_at);
CREATE INDEX gapray_jobs_owner ON gapray_jobs (owner, created_at, id);
CREATE INDEX gapray_webhooks_due ON gapray_webhooks (next_at);
COMMIT;
