package world

import (
	"fmt"
	"slices"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/objects"
	"github.com/belfrylb/belfry/internal/placement"
)

// Rebalance returns what rebalancing an advertisement moves, all steps taken together.
func (w *World) Rebalance(advertisement string) (*Plan, error) {
	known := false
	for _, ad := range w.Snapshot.L2Advertisements {
		known = known || ad.Name == advertisement
	}
	if !known {
		return nil, fmt.Errorf("there is no L2Advertisement %q", advertisement)
	}
	o := w.Settle()
	sites := o.Index.SitesOf(advertisement)
	load := map[string]int{}
	for _, node := range o.Places {
		load[node]++
	}
	of := map[string]bool{}
	for _, s := range sites {
		load[s.Placed]--
		of[s.Address.String()] = true
	}
	p := &Plan{Totals: map[Verb]int{}, Changes: []Change{}}
	for _, m := range placement.Rebalance(load, sites) {
		for _, key := range o.Index.Services(m.Address) {
			p.Changes = append(p.Changes, Change{
				Verb: Moves, Service: key.String(), Address: m.Address.String(), From: "node " + o.Places[m.Address], To: "node " + m.Node,
			})
		}
		delete(of, m.Address.String())
	}
	p.Totals[Moves], p.Totals[Stays] = len(p.Changes), len(of)
	return p, nil
}

// rebalancing says which advertisements are being rebalanced, or are about to be.
func (w *World) rebalancing() (out []string) {
	for _, ad := range w.objects.L2Advertisements {
		token, is := objects.RebalanceToken(ad.Annotations), ad.Status.Rebalance
		left := "its addresses move as well"
		switch {
		case token == "" || is != nil && is.Token == token && is.Remaining == 0:
			continue
		case is != nil && is.Token == token:
			left = fmt.Sprintf("up to %d %s as well", is.Remaining, plural(int(is.Remaining), "address moves", "addresses move"))
		}
		out = append(out, fmt.Sprintf("L2Advertisement %s is being rebalanced: %s, which is not in the plan.", ad.Name, left))
	}
	slices.Sort(out)
	return out
}

// MoveValue returns the value of the annotation that asks to move a Service to a node: one
// that it has not had.
func (w *World) MoveValue(key lb.ServiceKey, node string) (string, error) {
	s := w.services[key]
	if s == nil {
		return "", fmt.Errorf("there is no Service %s that is ours", key)
	}
	if s.Request.Move == node || s.Moved.Token == node {
		return fmt.Sprintf("%s %d", node, w.Now.Unix()), nil
	}
	return node, nil
}
