package membership

import (
	"fmt"
	"math"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/belfrylb/belfry/internal/election"
)

// A pace is all the durations of gossip. They belong together: how soon a
// silent node is found follows from all of them.
type pace struct {
	// probe is how often a node pings another, ackIn how soon the answer must
	// be there before others are asked to ping too.
	probe, ackIn time.Duration
	// suspicion multiplies probe and the logarithm of the cluster's size, which
	// makes refute: the time a suspect has to do so.
	suspicion int
	refute    time.Duration
	// gossip is how often news is passed on, to fanout nodes.
	gossip time.Duration
	fanout int
	// sync is how often two nodes compare all they know.
	sync time.Duration
	// slow is how long a node may be silent while its kernel answers.
	slow time.Duration
	// size is how many speakers all this is for.
	size int
}

// paceFor returns the pace for a cluster of so many speakers.
//
// memberlist's own failure detector costs each node the same whatever the
// size: one ping sent and, on average, one received per probe interval. What
// grows is the time to refute (by the logarithm, base ten), the time for news to
// reach everybody, and how unlucky one can be. In a cluster of three a silent
// node's turn comes within two intervals; in a large one each of the others picks
// it by chance, once in an interval on average and once in a hundred times not for
// five. So large clusters probe more often, which shortens all three, and pay for
// it with fifteen packets a second.
//
// A false verdict of this detector is no harm: the suspect is asked on its
// segment before anything moves. TestScale measures what comes of it all;
// docs/design/gossip.md has the figures.
func paceFor(size int) pace {
	p := pace{
		probe: 80 * time.Millisecond, ackIn: 40 * time.Millisecond, suspicion: 2,
		gossip: 20 * time.Millisecond, fanout: 3, sync: 10 * time.Second, slow: 1500 * time.Millisecond, size: size,
	}
	if size > 10 {
		p.probe, p.ackIn = 50*time.Millisecond, 25*time.Millisecond
	}
	if size > 100 {
		p.sync = 20 * time.Second
	}
	// As memberlist computes it.
	p.refute = time.Duration(float64(p.probe) * float64(p.suspicion) * max(1, math.Log10(float64(max(1, size)))))
	return p
}

// Validate reports a pace whose parts contradict each other.
func (p pace) Validate() error {
	switch {
	case p.ackIn <= 0 || p.ackIn >= p.probe:
		return fmt.Errorf("gossip: an answer within %v to a probe every %v", p.ackIn, p.probe)
	case p.gossip <= 0 || p.gossip > p.probe:
		return fmt.Errorf("gossip: news every %v reach a suspect too late to refute within a few %v", p.gossip, p.probe)
	case p.suspicion < 1 || p.fanout < 1 || p.sync < time.Second:
		return fmt.Errorf("gossip: suspicion %d, fanout %d, sync %v", p.suspicion, p.fanout, p.sync)
	case p.slow <= p.lostAfter():
		return fmt.Errorf("gossip: a silent node is lost after %v, so it cannot be given up within %v", p.lostAfter(), p.slow)
	}
	return nil
}

// lostAfter estimates how long a node was silent when gossip declares it dead:
// until it is probed, the probe, the time to refute, and the rounds of gossip in
// which all hear of it.
func (p pace) lostAfter() time.Duration {
	rounds := math.Ceil(math.Log(float64(max(1, p.size))) / math.Log(float64(1+p.fanout)))
	return p.probe/2 + p.probe + p.refute + time.Duration(rounds)*p.gossip
}

// view returns the durations of the View.
func (p pace) view() election.Pace { return election.DefaultPace(p.size, p.slow, p.lostAfter()) }

// apply sets the pace.
func (p pace) apply(c *memberlist.Config) {
	c.ProbeInterval, c.ProbeTimeout = p.probe, p.ackIn
	c.SuspicionMult, c.SuspicionMaxTimeoutMult = p.suspicion, p.suspicion
	c.GossipInterval, c.GossipNodes = p.gossip, p.fanout
	c.PushPullInterval = p.sync
}
