package kube

import (
	"maps"
	"math"

	"github.com/belfrylb/belfry/api/v1beta1"
)

// A SessionCount counts the BGP sessions with one peer, over all nodes.
type SessionCount struct {
	// Up are established, Total should be.
	Up, Total int32
}

// reduceSessions keeps of a SpeakerStatus which peers the node should hold
// sessions with, and whether they are established.
func reduceSessions(s *v1beta1.SpeakerStatus) map[string]bool {
	sessions := make(map[string]bool, len(s.Status.BGP.Sessions))
	for _, of := range s.Status.BGP.Sessions {
		sessions[of.Peer] = of.State == v1beta1.SessionEstablished
	}
	return sessions
}

func (c *Cluster) sessionsChanged(was, is *row[map[string]bool]) {
	var before, now map[string]bool
	if was != nil {
		before = was.value
	}
	if is != nil {
		now = is.value
	}
	if !maps.Equal(before, now) {
		c.changes.sessions = true
		c.notify()
	}
}

// SessionCount returns the sessions with a peer, as the speakers tell. What the
// speaker of a node said before the node stopped being ready is not believed any
// more.
func (c *Cluster) SessionCount(peer string) SessionCount {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessionCount(peer)
}

func (c *Cluster) sessionCount(peer string) (count SessionCount) {
	for n, r := range c.sessions.rows {
		up, holds := r.value[peer]
		node := c.nodes.rows[n]
		if !holds || node == nil || count.Total == math.MaxInt32 {
			continue
		}
		count.Total++
		if up && !node.value.NotReady {
			count.Up++
		}
	}
	return count
}
