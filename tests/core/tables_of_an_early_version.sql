CREATE TABLE assignment (
	device VARCHAR NOT NULL, 
	generation INTEGER NOT NULL, 
	bundle VARCHAR NOT NULL, 
	files TEXT NOT NULL, 
	model_version VARCHAR NOT NULL, 
	project VARCHAR NOT NULL, 
	engine VARCHAR NOT NULL, 
	assigned_at DATETIME NOT NULL, 
	PRIMARY KEY (device)
);
CREATE TABLE build (
	name VARCHAR NOT NULL, 
	model_version VARCHAR NOT NULL, 
	device_type VARCHAR NOT NULL, 
	engine VARCHAR NOT NULL, 
	precision VARCHAR NOT NULL, 
	state VARCHAR(8) NOT NULL, 
	reason VARCHAR NOT NULL, 
	subnet VARCHAR NOT NULL, 
	bundle VARCHAR NOT NULL, 
	files TEXT NOT NULL, 
	size_bytes INTEGER NOT NULL, 
	accuracy FLOAT, 
	subnet_accuracy FLOAT, 
	max_abs_error FLOAT, 
	predicted_ms FLOAT, 
	measured_ms FLOAT, 
	chosen BOOLEAN NOT NULL, 
	created_at DATETIME NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE candidate (
	"key" VARCHAR NOT NULL, 
	run VARCHAR NOT NULL, 
	device_type VARCHAR NOT NULL, 
	subnet VARCHAR NOT NULL, 
	precision VARCHAR NOT NULL, 
	description VARCHAR NOT NULL, 
	predicted_accuracy FLOAT, 
	accuracy FLOAT, 
	predicted_ms FLOAT, 
	predicted_low_ms FLOAT, 
	predicted_high_ms FLOAT, 
	measured_ms FLOAT, 
	macs INTEGER NOT NULL, 
	params INTEGER NOT NULL, 
	on_front BOOLEAN NOT NULL, 
	chosen BOOLEAN NOT NULL, 
	note VARCHAR NOT NULL, 
	drawing VARCHAR NOT NULL, 
	PRIMARY KEY ("key")
);
CREATE TABLE dataset (
	name VARCHAR NOT NULL, 
	latest_version INTEGER NOT NULL, 
	classes TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE dataset_import (
	dataset VARCHAR NOT NULL, 
	request_id VARCHAR NOT NULL, 
	version VARCHAR NOT NULL, 
	PRIMARY KEY (dataset, request_id)
);
CREATE TABLE dataset_version (
	name VARCHAR NOT NULL, 
	dataset VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	digest VARCHAR NOT NULL, 
	classes TEXT NOT NULL, 
	train_count INTEGER NOT NULL, 
	validation_count INTEGER NOT NULL, 
	class_counts TEXT NOT NULL, 
	added_count INTEGER NOT NULL, 
	duplicate_count INTEGER NOT NULL, 
	rejected TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	listing VARCHAR NOT NULL, 
	request_id VARCHAR NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE device (
	name VARCHAR NOT NULL, 
	device_type VARCHAR NOT NULL, 
	state VARCHAR(7) NOT NULL, 
	labels TEXT NOT NULL, 
	simulated BOOLEAN NOT NULL, 
	inventory TEXT NOT NULL, 
	agent_version VARCHAR NOT NULL, 
	enrolled_at DATETIME NOT NULL, 
	seen_at DATETIME, 
	assigned_generation INTEGER NOT NULL, 
	reported_generation INTEGER NOT NULL, 
	active_version VARCHAR NOT NULL, 
	active_engine VARCHAR NOT NULL, 
	active_bundle VARCHAR NOT NULL, 
	status_message VARCHAR NOT NULL, 
	serving_url VARCHAR NOT NULL, 
	secret_hash VARCHAR NOT NULL, 
	enrolment_key_hash VARCHAR NOT NULL, 
	boot_id VARCHAR NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE device_type (
	name VARCHAR NOT NULL, 
	fingerprint VARCHAR NOT NULL, 
	simulated BOOLEAN NOT NULL, 
	inventory TEXT NOT NULL, 
	device_count INTEGER NOT NULL, 
	verification VARCHAR NOT NULL, 
	created_at DATETIME NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE drift_event (
	id VARCHAR NOT NULL, 
	project VARCHAR NOT NULL, 
	device VARCHAR NOT NULL, 
	model_version VARCHAR NOT NULL, 
	signal VARCHAR NOT NULL, 
	statistic FLOAT NOT NULL, 
	threshold FLOAT NOT NULL, 
	p_value FLOAT NOT NULL, 
	sample_count INTEGER NOT NULL, 
	detected_at DATETIME NOT NULL, 
	message VARCHAR NOT NULL, 
	triggered_run VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE join_token (
	id VARCHAR NOT NULL, 
	labels TEXT NOT NULL, 
	uses_left INTEGER NOT NULL, 
	expires_at DATETIME NOT NULL, 
	created_at DATETIME NOT NULL, 
	secret_hash VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE known_bundle (
	bundle VARCHAR NOT NULL, 
	model_version VARCHAR NOT NULL, 
	project VARCHAR NOT NULL, 
	engine VARCHAR NOT NULL, 
	PRIMARY KEY (bundle)
);
CREATE TABLE known_subnet (
	subnet VARCHAR NOT NULL, 
	space VARCHAR NOT NULL, 
	resolution_px INTEGER NOT NULL, 
	encoding TEXT NOT NULL, 
	PRIMARY KEY (subnet)
);
CREATE TABLE measurement (
	peak_memory_bytes INTEGER NOT NULL, 
	median_half_width_ms FLOAT, 
	drift_ratio FLOAT, 
	settled BOOLEAN, 
	throttled BOOLEAN NOT NULL, 
	drifting BOOLEAN NOT NULL, 
	attempts INTEGER NOT NULL, 
	cooled_seconds FLOAT NOT NULL, 
	pinned_cpus TEXT NOT NULL, 
	temperature_begin_celsius FLOAT, 
	temperature_max_celsius FLOAT, 
	temperature_celsius FLOAT, 
	frequency_begin_mhz FLOAT, 
	frequency_min_mhz FLOAT, 
	frequency_end_mhz FLOAT, 
	id VARCHAR NOT NULL, 
	device VARCHAR NOT NULL, 
	device_type VARCHAR NOT NULL, 
	subnet VARCHAR NOT NULL, 
	engine VARCHAR NOT NULL, 
	precision VARCHAR NOT NULL, 
	median_ms FLOAT, 
	p90_ms FLOAT, 
	p99_ms FLOAT, 
	repeats INTEGER NOT NULL, 
	measured_at DATETIME NOT NULL, 
	run VARCHAR NOT NULL, 
	purpose VARCHAR NOT NULL, 
	error VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE model (
	name VARCHAR NOT NULL, 
	latest_version INTEGER NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE model_version (
	name VARCHAR NOT NULL, 
	model VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	run VARCHAR NOT NULL, 
	dataset_version VARCHAR NOT NULL, 
	supernet VARCHAR NOT NULL, 
	subnets TEXT NOT NULL, 
	accuracies TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE project (
	name VARCHAR NOT NULL, 
	spec TEXT NOT NULL, 
	spec_generation INTEGER NOT NULL, 
	created_at DATETIME NOT NULL, 
	updated_at DATETIME NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE project_change (
	project VARCHAR NOT NULL, 
	request_id VARCHAR NOT NULL, 
	changes TEXT NOT NULL, 
	PRIMARY KEY (project, request_id)
);
CREATE TABLE rollout (
	id VARCHAR NOT NULL, 
	project VARCHAR NOT NULL, 
	model_version VARCHAR NOT NULL, 
	state VARCHAR(9) NOT NULL, 
	reason VARCHAR NOT NULL, 
	spec TEXT NOT NULL, 
	waves TEXT NOT NULL, 
	devices TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	ended_at DATETIME, 
	request_id VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE run (
	name VARCHAR NOT NULL, 
	project VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	state VARCHAR(9) NOT NULL, 
	"trigger" VARCHAR(10) NOT NULL, 
	reason VARCHAR NOT NULL, 
	stages TEXT NOT NULL, 
	error VARCHAR NOT NULL, 
	dataset_version VARCHAR NOT NULL, 
	base_run VARCHAR NOT NULL, 
	created_at DATETIME NOT NULL, 
	ended_at DATETIME, 
	outcome VARCHAR NOT NULL, 
	request_id VARCHAR NOT NULL, 
	spec_json VARCHAR NOT NULL, 
	history TEXT NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE step_log (
	id INTEGER NOT NULL, 
	device VARCHAR NOT NULL, 
	generation INTEGER NOT NULL, 
	step VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	message VARCHAR NOT NULL, 
	attempt INTEGER NOT NULL, 
	reported_at DATETIME NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE telemetry_window (
	device VARCHAR NOT NULL, 
	boot_id VARCHAR NOT NULL, 
	sequence INTEGER NOT NULL, 
	started_at DATETIME NOT NULL, 
	ended_at DATETIME NOT NULL, 
	bundle VARCHAR NOT NULL, 
	model_version VARCHAR NOT NULL, 
	project VARCHAR NOT NULL, 
	request_count INTEGER NOT NULL, 
	error_count INTEGER NOT NULL, 
	log10_latency_ms TEXT, 
	latency_ms TEXT, 
	confidence TEXT, 
	class_counts TEXT NOT NULL, 
	inputs TEXT NOT NULL, 
	cpu_percent FLOAT, 
	memory_bytes INTEGER NOT NULL, 
	temperature_celsius FLOAT, 
	dropped_count INTEGER NOT NULL, 
	id INTEGER NOT NULL, 
	received_at DATETIME NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (device, boot_id, sequence)
);
CREATE INDEX ix_build_bundle ON build (bundle);
CREATE INDEX ix_build_model_version ON build (model_version);
CREATE INDEX ix_candidate_run ON candidate (run);
CREATE INDEX ix_dataset_version_dataset ON dataset_version (dataset);
CREATE INDEX ix_dataset_version_request_id ON dataset_version (request_id);
CREATE INDEX ix_device_device_type ON device (device_type);
CREATE UNIQUE INDEX ix_device_type_fingerprint ON device_type (fingerprint);
CREATE INDEX ix_drift_event_project ON drift_event (project);
CREATE INDEX ix_join_token_secret_hash ON join_token (secret_hash);
CREATE INDEX ix_known_subnet_space ON known_subnet (space);
CREATE INDEX ix_measurement_device_type ON measurement (device_type);
CREATE INDEX ix_measurement_run ON measurement (run);
CREATE INDEX ix_measurement_subnet ON measurement (subnet);
CREATE INDEX ix_model_version_model ON model_version (model);
CREATE INDEX ix_model_version_run ON model_version (run);
CREATE INDEX ix_rollout_project ON rollout (project);
CREATE INDEX ix_rollout_request_id ON rollout (request_id);
CREATE INDEX ix_run_project ON run (project);
CREATE INDEX ix_run_request_id ON run (request_id);
CREATE INDEX ix_step_log_device ON step_log (device);
CREATE INDEX ix_telemetry_window_device ON telemetry_window (device);
CREATE INDEX ix_telemetry_window_project ON telemetry_window (project);
