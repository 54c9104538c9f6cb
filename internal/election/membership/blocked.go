package membership

import (
	"slices"

	"github.com/belfrylb/belfry/internal/election"
)

// tellBlocked stores to whom gossip is blocked, and logs what is new of that.
func (m *Membership) tellBlocked(now []election.Blocked) {
	before := *m.blocked.Load()
	m.blocked.Store(&now)
	for _, b := range now {
		if !slices.Contains(before, b) {
			m.log.Warn("gossip is blocked between this node and another one, whose speaker is heard: is the port filtered?",
				"node", b.Node, "protocols", b.Protocols, "port", m.cfg.Port)
		}
	}
	for _, b := range before {
		if !slices.ContainsFunc(now, func(is election.Blocked) bool { return is.Node == b.Node }) {
			m.log.Info("gossip is not blocked any more", "node", b.Node)
		}
	}
	select {
	case m.changed <- struct{}{}:
	default:
	}
}
