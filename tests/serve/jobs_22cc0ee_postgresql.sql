CREATE TABLE public.gapray_api_keys (
    id character varying(16) NOT NULL,
    name character varying(128) NOT NULL,
    sha256 character varying(64) NOT NULL,
    scopes json NOT NULL,
    per_minute integer,
    concurrent integer,
    created_at double precision NOT NULL,
    revoked_at double precision
);
CREATE TABLE public.gapray_jobs (
    id character varying(64) NOT NULL,
    owner character varying(64) NOT NULL,
    api character varying(16) NOT NULL,
    kind character varying(16) NOT NULL,
    endpoint character varying(128) NOT NULL,
    model character varying(128) NOT NULL,
    status character varying(16) NOT NULL,
    stage character varying(16) NOT NULL,
    progress integer NOT NULL,
    making json NOT NULL,
    input json NOT NULL,
    digest character varying(64) NOT NULL,
    idempotency_key character varying(255),
    webhook text,
    created_at double precision NOT NULL,
    started_at double precision,
    finished_at double precision,
    expires_at double precision NOT NULL,
    wait_until double precision,
    attempt integer NOT NULL,
    tried_before integer NOT NULL,
    timeout_s double precision,
    lease_owner character varying(64),
    lease_until double precision,
    error_code character varying(64),
    error_message text,
    result json
);
CREATE TABLE public.gapray_webhooks (
    id character varying(64) NOT NULL,
    job_id character varying(64) NOT NULL,
    url text NOT NULL,
    tries integer NOT NULL,
    next_at double precision,
    delivered_at double precision,
    last_error text
);
INSERT INTO public.gapray_api_keys VALUES ('0123456789ab', 'old client', 'd425b00968a2c6489e801e6bf7428fa3d063540499172123dcb893e963e5243b', '["read", "write"]', 60, NULL, 1790000002, NULL);
INSERT INTO public.gapray_jobs VALUES ('00000000000000000000000000000001', '0123456789ab', 'openai', 'video', '', 'gapray', 'completed', '', 100, '{"product_id": "mug-1", "prompt": "a \"quoted\" na\u00efve prompt; with ''marks''", "frames": 24, "format": "mp4", "seed": 0, "score": true}', '{"capture": "uploads/00000000000000000000000000000001/capture.zip", "photos": []}', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 'first', 'https://client.example/hook', 1790000003, 1790000004, 1790000007, 1790086403, NULL, 1, 0, NULL, NULL, NULL, NULL, NULL, '{"files": {"turntable.mp4": {"bytes": 1234, "type": "video/mp4"}}, "video": {"name": "turntable.mp4", "frames": 24}, "seconds": {"render": 1.5}}');
INSERT INTO public.gapray_jobs VALUES ('00000000000000000000000000000002', '0123456789ab', 'runpod', 'video', 'ep', 'gapray', 'failed', '', 0, '{"product_id": "mug-2", "prompt": "a \"quoted\" na\u00efve prompt; with ''marks''", "frames": 24, "format": "mp4", "seed": 0, "score": true}', '{"capture": "uploads/00000000000000000000000000000002/capture.zip", "photos": []}', '', NULL, 'https://client.example/hook2', 1790000010, 1790000011, 1790000014, 1790086410, NULL, 1, 0, NULL, NULL, NULL, 'mask.too_small', 'the product is too small', NULL);
INSERT INTO public.gapray_jobs VALUES ('00000000000000000000000000000003', '0123456789ab', 'openai', 'image', '', 'gapray', 'running', 'render', 40, '{"product_id": "mug-3", "format": "mp4", "seed": 0, "score": true, "still": {"scene": "marble-kitchen", "count": 2, "format": "png", "quality": 95}}', '{"capture": "uploads/00000000000000000000000000000003/capture.zip", "photos": []}', '', NULL, NULL, 1790000015, 1790000016, NULL, 1790086415, NULL, 1, 0, NULL, 'dispatcher-old', 1790000031, NULL, NULL, NULL);
INSERT INTO public.gapray_jobs VALUES ('00000000000000000000000000000004', '0123456789ab', 'openai', 'video', '', 'gapray', 'queued', '', 0, '{"product_id": "mug-4", "prompt": "a \"quoted\" na\u00efve prompt; with ''marks''", "frames": 24, "format": "mp4", "seed": 0, "score": true}', '{"photos": [{"url": "https://client.example/a.jpg", "azimuth_deg": 45.0}]}', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'fourth', NULL, 1790000019, NULL, NULL, 1790086419, NULL, 0, 0, 600, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.gapray_jobs VALUES ('00000000000000000000000000000005', '0123456789ab', 'openai', 'package', '', 'gapray', 'cancelled', '', 0, '{"product_id": "mug-5", "prompt": "a \"quoted\" na\u00efve prompt; with ''marks''", "frames": 24, "format": "mp4", "seed": 0, "score": true}', '{"capture": "uploads/00000000000000000000000000000005/capture.zip", "photos": []}', '', NULL, NULL, 1790000020, NULL, 1790000021, 1790086420, NULL, 0, 0, NULL, NULL, NULL, 'job.cancelled', 'the job was cancelled', NULL);
INSERT INTO public.gapray_webhooks VALUES ('msg_00000000000000000000000000000001', '00000000000000000000000000000001', 'https://client.example/hook', 1, NULL, 1790000009, NULL);
INSERT INTO public.gapray_webhooks VALUES ('msg_00000000000000000000000000000002', '00000000000000000000000000000002', 'https://client.example/hook2', 0, 1790000014, NULL, NULL);
ALTER TABLE ONLY public.gapray_api_keys
    ADD CONSTRAINT gapray_api_keys_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.gapray_jobs
    ADD CONSTRAINT gapray_jobs_owner_idempotency_key_key UNIQUE (owner, idempotency_key);
ALTER TABLE ONLY public.gapray_jobs
    ADD CONSTRAINT gapray_jobs_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.gapray_webhooks
    ADD CONSTRAINT gapray_webhooks_pkey PRIMARY KEY (id);
CREATE INDEX gapray_jobs_owner ON public.gapray_jobs USING btree (owner, created_at, id);
CREATE INDEX gapray_jobs_queue ON public.gapray_jobs USING btree (status, created_at);
CREATE INDEX gapray_webhooks_due ON public.gapray_webhooks USING btree (next_at);
ALTER TABLE ONLY public.gapray_webhooks
    ADD CONSTRAINT gapray_webhooks_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.gapray_jobs(id) ON DELETE CASCADE;
