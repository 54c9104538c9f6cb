package controller

import (
	"net/netip"
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/quarantine"
	"github.com/belfrylb/belfry/internal/report"
)

// quarantine is called when a pass has panicked, which is an error of ours that
// some Service brings to light. It finds out which, so that the next term serves all
// the others. It reports whether it found one.
func (c *Controller) quarantine(err error) bool {
	c.Log.Error("a pass of the loop has panicked", "err", err)
	setting, _ := c.Cluster.Setting()
	keys := c.Cluster.Everything().Services
	slices.SortFunc(keys, lb.ServiceKey.Compare)
	var (
		suspects []lb.Service
		editions []uint64
	)
	for _, key := range keys {
		s, ok := c.Cluster.Service(key)
		if edition, aside := c.aside[key]; ok && !(aside && edition == s.Edition) {
			suspects, editions = append(suspects, s.Service), append(editions, s.Edition)
		}
	}
	found := quarantine.Search(suspects, func(some []lb.Service) { c.rehearse(setting, some) })
	for _, i := range found {
		c.Log.Error("service set aside until it changes", "service", suspects[i].Key.String())
		c.aside[suspects[i].Key] = editions[i]
	}
	return len(found) > 0
}

// rehearse decides what a pass decides about some Services. Nothing comes of it.
func (c *Controller) rehearse(setting lb.Snapshot, some []lb.Service) {
	p := c.newPlanner()
	p.SetPools(setting.Pools)
	p.SetNodes(setting.Nodes)
	p.SetExternal(c.Cluster.ExternalIPs())
	places := map[netip.Addr]string{}
	subjects := make([]report.Subject, len(some))
	for i, s := range some {
		p.Put(s)
		for _, a := range s.Assigned {
			places[a] = s.PlaceOf(a)
		}
		subjects[i] = report.Subject{Key: s.Key, Addresses: s.Assigned}
	}
	p.Plan(time.Now())
	setting.Services = some
	new(report.Teller).Tell(announce.NewIndex(setting, c.Announce), report.NewView(nil, nil, time.Now(), nil),
		subjects, func(a netip.Addr) string { return places[a] }, time.Now())
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
