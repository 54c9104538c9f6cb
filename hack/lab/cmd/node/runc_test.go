package main

import (
	"encoding/json"
	"reflect"
	"testing"
)

func TestOnlyLimitsAreTakenOutOfABundle(t *testing.T) {
	got, err := unlimited([]byte(`{
		"ociVersion": "1.0.2",
		"process": {"args": ["/web"], "capabilities": {"bounding": ["CAP_NET_RAW"]}, "oomScoreAdj": -997, "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1048576, "soft": 1048576}]},
		"linux": {"resources": {"memory": {"limit": 9007199254740993}}}
	}`))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{
		"ociVersion": "1.0.2",
		"process": {"args": ["/web"], "capabilities": {"bounding": ["CAP_NET_RAW"]}},
		"linux": {"resources": {"memory": {"limit": 9007199254740993}}}
	}`
	var a, b map[string]json.RawMessage
	if err := json.Unmarshal(got, &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(want), &b); err != nil {
		t.Fatal(err)
	}
	for key := range b {
		if key == "process" {
			continue
		}
		if string(a[key]) != compact(t, b[key]) {
			t.Errorf("%s is %s, want it untouched: %s", key, a[key], b[key])
		}
	}
	var x, y any
	if json.Unmarshal(a["process"], &x) != nil || json.Unmarshal(b["process"], &y) != nil || !reflect.DeepEqual(x, y) {
		t.Errorf("process is %s", a["process"])
	}
}

func compact(t *testing.T, b json.RawMessage) string {
	t.Helper()
	out, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestWhatIsNoBundleIsRefused(t *testing.T) {
	for _, bad := range []string{"", "[]", "{}", `{"process": 1}`} {
		if got, err := unlimited([]byte(bad)); err == nil {
			t.Errorf("%q became %s", bad, got)
		}
	}
	if err := wrap([]string{"create", "--bundle"}); err == nil {
		t.Error("create without a bundle goes on")
	}
}
