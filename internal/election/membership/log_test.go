package membership

import (
	"bytes"
	"log/slog"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/election"
)

// Where answers come late, gossip loses members and finds them again all the time.
func TestASuspicionThatWasWrongCostsNoLineInTheLog(t *testing.T) {
	var out bytes.Buffer
	l := &loop{ctx: t.Context(), m: &Membership{log: slog.New(slog.NewTextHandler(&out, nil)), metrics: newMetrics(nil)}}
	for _, c := range []election.Change{
		{Node: "node-02", State: election.Suspected},
		{Node: "node-02", State: election.Stalled, Doubted: true, For: 60 * time.Millisecond},
		{Node: "node-02", State: election.Cut, Doubted: true, For: 160 * time.Millisecond},
		{Node: "node-02", State: election.Alive, Doubted: true, For: 900 * time.Millisecond},
	} {
		l.log(c)
	}
	if out.Len() > 0 {
		t.Errorf("it logs\n%s", out.String())
	}
	l.log(election.Change{Node: "node-02", State: election.Alive, Doubted: true, For: 1200 * time.Millisecond})
	l.log(election.Change{Node: "node-02", State: election.Gone, Cause: election.GoneSlow, Doubted: true, For: 1200 * time.Millisecond})
	if n := bytes.Count(out.Bytes(), []byte("\n")); n != 2 {
		t.Errorf("%d lines tell of one that was silent for long and one that is gone:\n%s", n, out.String())
	}
}
