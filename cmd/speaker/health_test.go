package main

import (
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/lb"
)

func TestReadyOnceItHasLearnedWhoOwnsWhat(t *testing.T) {
	members := []election.Member{{Node: "node1", State: election.Joining}, {Node: "node2", State: election.Alive}}
	h := &health{}
	if h.missing() == nil {
		t.Error("ready before it is a member")
	}
	h.watch(func() error {
		if !joined(members, "node1") {
			return errUnlearned
		}
		return nil
	})
	if h.missing() == nil {
		t.Error("ready while it is joining")
	}
	members[0].State = election.Alive
	if err := h.missing(); err != nil {
		t.Error(err)
	}
}

func TestReadyOnceItsRoutersKnow(t *testing.T) {
	start := time.Unix(1000, 0)
	intent := &bgp.Intent{Sessions: []bgp.Session{{Peer: lb.BGPPeer{Name: "tor4"}}, {Peer: lb.BGPPeer{Name: "tor6"}}, {Peer: lb.BGPPeer{Name: "old", Shutdown: true}}}}
	up := func(peer string, routes, sent int) bgp.SessionView {
		return bgp.SessionView{Peer: peer, State: bgp.Established, Routes: routes, Sent: sent}
	}
	down := func(peer string) bgp.SessionView { return bgp.SessionView{Peer: peer, State: bgp.Connect} }
	for _, c := range []struct {
		name   string
		intent *bgp.Intent
		views  []bgp.SessionView
		after  time.Duration
		want   bool
	}{
		{"no BGP", &bgp.Intent{}, nil, 0, true},
		{"not begun", intent, nil, 0, false},
		{"one is down", intent, []bgp.SessionView{up("tor4", 1, 1), down("tor6")}, 0, false},
		{"one is being told", intent, []bgp.SessionView{up("tor4", 2, 1), up("tor6", 0, 0)}, 0, false},
		{"all are told", intent, []bgp.SessionView{up("tor4", 2, 2), up("tor6", 0, 0), down("old")}, 0, true},
		{"a router is away", intent, []bgp.SessionView{up("tor4", 1, 1), down("tor6")}, routerPatience, true},
	} {
		i := &introduction{}
		i.ended(intent, nil, start) // asked for the first time
		if got := i.ended(c.intent, c.views, start.Add(c.after)); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
		if got := i.ended(intent, nil, start.Add(c.after+time.Second)); got != c.want {
			t.Errorf("%s: %v once all sessions have fallen", c.name, got)
		}
	}
}
