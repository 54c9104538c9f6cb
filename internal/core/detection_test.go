package core

import (
	"net/netip"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
)

// A Node's word counts more than the speaker's flag, and others are told at once.
func TestTheNodesWordAboutDetectionCounts(t *testing.T) {
	now := time.Unix(1000, 0)
	c := New(Config{Node: "n1", Gossip: netip.MustParseAddr("2001:db8::1"), Detection: lb.DetectFast})
	for _, step := range []struct {
		said, want lb.Detection
	}{
		{lb.DetectAsConfigured, lb.DetectFast}, {lb.DetectStandard, lb.DetectStandard}, {lb.DetectFast, lb.DetectFast}, {lb.DetectAsConfigured, lb.DetectFast},
	} {
		now = now.Add(time.Second)
		before := c.gossip.Detection
		c.Configure(now, lb.Snapshot{Nodes: []lb.Node{{Name: "n0", Detection: lb.DetectStandard}, {Name: "n1", Detection: step.said}}})
		e := c.Settle(now)
		if c.gossip.Detection != step.want || e.View == nil || e.View.Detection != step.want {
			t.Errorf("its Node says %q: %q is in effect, want %q", step.said, c.gossip.Detection, step.want)
		}
		if told := e.Gossip != nil; told != (before != step.want) {
			t.Errorf("its Node says %q: others are told %v, though it was %q and is %q", step.said, told, before, step.want)
		}
	}
}
