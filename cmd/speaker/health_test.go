package main

import (
	"testing"

	"github.com/belfrylb/belfry/internal/election"
)

func TestReadyOnceItHasLearnedWhoOwnsWhat(t *testing.T) {
	members := []election.Member{{Node: "node1", State: election.Joining}, {Node: "node2", State: election.Alive}}
	h := &health{}
	if h.missing() == nil {
		t.Error("ready before it is a member")
	}
	h.watch(func() bool { return joined(members, "node1") })
	if h.missing() == nil {
		t.Error("ready while it is joining")
	}
	members[0].State = election.Alive
	if err := h.missing(); err != nil {
		t.Error(err)
	}
}
