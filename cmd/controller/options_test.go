package main

import (
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/daemon"
	"github.com/belfrylb/belfry/internal/kube/lease"
)

func TestDefaultsAreThoseOfTheDocumentation(t *testing.T) {
	t.Setenv("POD_NAMESPACE", "")
	f, done, err := parse([]string{"--identity=a"})
	if done || err != nil {
		t.Fatalf("%v, %v", done, err)
	}
	want := flags{
		namespace: "belfry-system", identity: "a", gossipSecret: "belfry-gossip",
		lease:   lease.Timing{Lease: 15 * time.Second, Renew: 10 * time.Second, Retry: 2 * time.Second},
		Options: daemon.Options{HealthAddress: ":7881", MetricsAddress: "127.0.0.1:7882", LogLevel: "info", LogFormat: "text"},
	}
	if f != want {
		t.Errorf("%+v, want %+v", f, want)
	}
	t.Setenv("POD_NAMESPACE", "elsewhere")
	if f, _, _ := parse(nil); f.namespace != "elsewhere" {
		t.Errorf("in a Pod of elsewhere the namespace is %q", f.namespace)
	}
}

func TestBadFlagsAreAllReported(t *testing.T) {
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"--log-level=loud", "--log-format=xml", "extra"}, []string{"loud", "xml", "extra"}},
		{[]string{"--lease-duration=5s"}, []string{"renew deadline"}},
		{[]string{"--identity="}, []string{"--identity"}},
		{[]string{"--nonsense"}, []string{"nonsense"}},
	} {
		_, done, err := parse(c.args)
		if done || err == nil {
			t.Errorf("%q: %v, %v", c.args, done, err)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q: %v does not mention %s", c.args, err, w)
			}
		}
	}
}

func TestVersionAndHelpEndThere(t *testing.T) {
	for _, arg := range []string{"--version", "--help"} {
		if _, done, _ := parse([]string{arg}); !done {
			t.Errorf("%s goes on", arg)
		}
	}
}
