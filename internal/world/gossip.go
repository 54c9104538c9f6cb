package world

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/election"
)

// A Gap is between two nodes whose speakers are there, and between which gossip is blocked.
type Gap struct {
	Nodes [2]string
	// Protocols do not get through, one way at least.
	Protocols election.Protocols
}

// Gossip returns how many speakers are heard, and the gaps that they tell of, by node.
func (w *World) Gossip() (speakers int, gaps []Gap) {
	between := map[[2]string]election.Protocols{}
	for _, r := range w.reports {
		if !w.view.Believes(r.Node) || r.State == election.Gone {
			continue
		}
		speakers++
		for _, b := range r.Blocked {
			between[pair(r.Node, b.Node)] |= b.Protocols
		}
	}
	for nodes, p := range between {
		gaps = append(gaps, Gap{nodes, p})
	}
	slices.SortFunc(gaps, func(a, b Gap) int {
		return cmp.Or(strings.Compare(a.Nodes[0], b.Nodes[0]), strings.Compare(a.Nodes[1], b.Nodes[1]))
	})
	return speakers, gaps
}

func pair(a, b string) [2]string { return [2]string{min(a, b), max(a, b)} }

// String says what is between them.
func (g Gap) String() string {
	return "gossip is blocked between " + g.Nodes[0] + " and " + g.Nodes[1] + ": " + g.Protocols.String() + " to port 7870"
}

// Spoke returns the latest moment that each speaker tells of, by its node's clock.
func Spoke(speakers []*v1beta1.SpeakerStatus) map[string]time.Time {
	out := map[string]time.Time{}
	for _, o := range speakers {
		for _, t := range o.Status.Layer2.Transitions {
			out[o.Name] = latest(out[o.Name], t.Since.Time)
		}
		for _, b := range o.Status.BGP.Sessions {
			if b.Since != nil {
				out[o.Name] = latest(out[o.Name], b.Since.Time)
			}
		}
		if p := o.Status.Probe; p != nil {
			out[o.Name] = latest(out[o.Name], p.At.Time)
		}
	}
	return out
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
