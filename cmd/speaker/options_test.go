package main

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/daemon"
	"github.com/belfrylb/belfry/internal/lb"
)

func TestFlagsHaveTheirDefaults(t *testing.T) {
	t.Setenv("NODE_NAME", "node1")
	t.Setenv("POD_NAMESPACE", "")
	got, err := parse(nil)
	want := options{
		node: "node1", namespace: "belfry-system", secret: "belfry-gossip", gossipPort: 7870, detectionPort: 7874, detection: lb.DetectFast,
		refresh: time.Minute, proof: 5 * time.Minute, rate: 500, grace: 5 * time.Second,
		Options: daemon.Options{HealthAddress: ":7871", MetricsAddress: "127.0.0.1:7872", LogLevel: "info", LogFormat: "text"},
	}
	if err != nil || got != want {
		t.Errorf("%+v, %v\nwant %+v", got, err, want)
	}
	t.Setenv("POD_NAMESPACE", "elsewhere")
	if got, _ = parse(nil); got.namespace != "elsewhere" {
		t.Errorf("namespace %q", got.namespace)
	}
}

func TestFlagsAreRead(t *testing.T) {
	for flag, want := range map[string]func(options) bool{
		"--kubeconfig=/k":                 func(o options) bool { return o.kubeconfig == "/k" },
		"--node-name=node2":               func(o options) bool { return o.node == "node2" },
		"--namespace=n":                   func(o options) bool { return o.namespace == "n" },
		"--lb-class=example.com/lb":       func(o options) bool { return o.class == "example.com/lb" },
		"--ignore-exclude-lb":             func(o options) bool { return o.ignoreExclude },
		"--drain-taint=example.com/x":     func(o options) bool { return o.drainTaint == "example.com/x" },
		"--gossip-secret=s":               func(o options) bool { return o.secret == "s" },
		"--gossip-address=192.0.2.1":      func(o options) bool { return o.gossip == netip.MustParseAddr("192.0.2.1") },
		"--gossip-address=2001:db8::1":    func(o options) bool { return o.gossip == netip.MustParseAddr("2001:db8::1") },
		"--gossip-port=9":                 func(o options) bool { return o.gossipPort == 9 },
		"--detection=standard":            func(o options) bool { return o.detection == lb.DetectStandard },
		"--detection=fast":                func(o options) bool { return o.detection == lb.DetectFast },
		"--detection-port=9":              func(o options) bool { return o.detectionPort == 9 },
		"--health-address=":               func(o options) bool { return o.HealthAddress == "" },
		"--metrics-address=[::1]:1":       func(o options) bool { return o.MetricsAddress == "[::1]:1" },
		"--refresh-interval=0":            func(o options) bool { return o.refresh == 0 },
		"--proof-interval=0":              func(o options) bool { return o.proof == 0 },
		"--bgp-grace=0":                   func(o options) bool { return o.grace == 0 },
		"--announce-rate=7":               func(o options) bool { return o.rate == 7 },
		"--log-format=json":               func(o options) bool { return o.LogFormat == "json" },
		"--log-level=debug":               func(o options) bool { return o.LogLevel == "debug" },
		"--gossip-address=::ffff:1.2.3.4": func(o options) bool { return o.gossip.Is4() },
	} {
		if o, err := parse([]string{"--node-name=node1", flag}); err != nil || !want(o) {
			t.Errorf("%s: %+v, %v", flag, o, err)
		}
	}
}

func TestAllThatIsWrongWithTheFlagsIsSaid(t *testing.T) {
	t.Setenv("NODE_NAME", "")
	_, err := parse(strings.Fields("--gossip-address=x --gossip-port=0 --detection=quick --detection-port=0 --refresh-interval=-1s --proof-interval=-1s --announce-rate=0 --bgp-grace=-1s --log-format=xml --log-level=loud surplus"))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"--node-name:", "--gossip-address:", "--gossip-port:", "--detection:", "--detection-port:", "--refresh-interval:", "--proof-interval:", "--announce-rate:", "--bgp-grace:", "--log-format:", "--log-level:", `"surplus"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not said of %s:\n%v", want, err)
		}
	}
	if _, err := parse([]string{"--no-such-flag"}); err == nil || errors.Is(err, errDone) {
		t.Errorf("an unknown flag: %v", err)
	}
}

func TestHelpAndVersionEndThere(t *testing.T) {
	for _, flag := range []string{"--help", "--version"} {
		if _, err := parse([]string{flag}); !errors.Is(err, errDone) {
			t.Errorf("%s: %v", flag, err)
		}
	}
}
