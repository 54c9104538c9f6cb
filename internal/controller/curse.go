package controller

import (
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/report"
)

// exorcise is called when a pass has panicked, which is an error of ours that
// some Service brings to light. It finds out which, by planning for one after
// the other, so that the next term serves all the others. It reports whether it
// found one.
func (c *Controller) exorcise(err error) bool {
	c.Log.Error("a pass of the loop has panicked", "err", err)
	setting, _ := c.Cluster.Setting()
	keys := c.Cluster.Everything().Services
	slices.SortFunc(keys, lb.ServiceKey.Compare)
	found := false
	trial := c.newTrial(setting)
	for _, key := range keys {
		s, ok := c.Cluster.Service(key)
		if edition, cursed := c.cursed[key]; !ok || cursed && edition == s.Edition || c.survives(trial, setting, s.Service) {
			continue
		}
		c.Log.Error("service set aside until it changes", "service", key.String())
		c.cursed[key] = s.Edition
		found = true
		trial = c.newTrial(setting)
	}
	return found
}

func (c *Controller) newTrial(setting lb.Snapshot) planner {
	p := c.newPlanner()
	p.SetPools(setting.Pools)
	p.SetNodes(setting.Nodes)
	p.SetExternal(c.Cluster.ExternalIPs())
	return p
}

// survives tries out whether a Service can be planned for. What the trial plans
// is of no consequence.
func (c *Controller) survives(trial planner, setting lb.Snapshot, s lb.Service) (well bool) {
	defer func() { _ = recover() }() // what it says has been logged
	trial.Put(s)
	trial.Plan(time.Now())
	setting.Services = []lb.Service{s}
	new(report.Teller).Tell(announce.NewIndex(setting, c.Announce), report.NewView(nil, nil, time.Now(), nil),
		[]report.Subject{{Key: s.Key, Addresses: s.Assigned}}, s.PlaceOf, time.Now())
	return true
}

// bare is what the planner is told of a Service over which it has panicked: who
// it is and what it holds, so that it keeps that, but for what it shares and others
// could lose.
func bare(s lb.Service) lb.Service {
	return lb.Service{
		Key: s.Key, UID: s.UID, Created: s.Created, Families: s.Families, FamilyPolicy: s.FamilyPolicy,
		Assigned: s.Assigned, AssignedPools: s.AssignedPools, Withdrawn: s.Withdrawn, Others: s.Others, Reallocated: s.Reallocated, Terms: s.Terms, Placed: s.Placed,
		Request: lb.Request{Problems: []string{"the controller cannot handle this Service, which is an error of the controller; its log has more"}},
	}
}
