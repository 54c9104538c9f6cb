package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/belfrylb/belfry/internal/world"
)

// How far clocks may be apart without a word: docs/design/clocks.md.
const (
	// clockSlack is more than what the seconds of a Date and of a Lease leave open.
	clockSlack = 3 * time.Second
	// kubeletSilence is after which the cluster takes a node for not ready: its Lease, by a
	// true clock, is younger while it is ready.
	kubeletSilence = 50 * time.Second
)

// A nodeClock is what is known of the clock of a node: when its kubelet renewed the node's
// Lease, by that clock, and the latest moment that its speaker tells of. Either may be zero.
type nodeClock struct {
	node           string
	ready          bool
	renewed, spoke time.Time
}

// readClocks judges clocks by the API server's. Local is the one of this machine at the
// moment when the server answered.
func readClocks(server, local time.Time, nodes []nodeClock) (out []check) {
	const section = "Clocks"
	const hint = "run a time service there; nothing that Belfry decides compares clocks, but times in logs, Events and statuses cannot be compared, and tokens and certificates may seem invalid"
	add := func(whose string, off time.Duration) {
		way := "ahead of"
		if off < 0 {
			way, off = "behind", -off
		}
		out = append(out, check{section, fmt.Sprintf("%s is at least %s %s the API server's", whose, off.Round(time.Second), way), warning, hint, ""})
	}
	if off := local.Sub(server); off.Abs() > clockSlack {
		add("the clock of this machine", off)
	}
	known := 0
	for _, n := range nodes {
		latest := n.renewed
		if n.spoke.After(latest) {
			latest = n.spoke
		}
		if !n.renewed.IsZero() {
			known++
		}
		switch off := latest.Sub(server); {
		case latest.IsZero():
		case off > clockSlack:
			add("the clock of node "+n.node, off)
		case n.ready && !n.renewed.IsZero() && server.Sub(n.renewed) > kubeletSilence:
			add("the clock of node "+n.node, n.renewed.Add(kubeletSilence).Sub(server))
		}
	}
	switch {
	case known == 0:
		out = append(out, check{section, "whether clocks of nodes are behind: no Lease of a node could be read", unknown, "it takes the right to list leases in the namespace kube-node-lease", ""})
	case len(out) == 0:
		out = append(out, check{section, fmt.Sprintf("this machine and %d nodes have the time of the API server", known), good, "", ""})
	}
	return out
}

// clocks compares clocks with the API server's.
func (t *tool) clocks(ctx context.Context, s *store) ([]check, error) {
	client, err := t.reader()
	if err != nil {
		return nil, err
	}
	server, local, err := t.dates(ctx, client)
	if err != nil {
		return []check{{"Clocks", "the time of the API server cannot be read: " + inWords(err), unknown, "", ""}}, nil
	}
	renewed := map[string]time.Time{}
	// Who may not list them is told that no Lease could be read.
	_, _ = pages(ctx, client, "/apis/"+coordinationv1.SchemeGroupVersion.String()+"/namespaces/"+corev1.NamespaceNodeLease+"/leases", func(body []byte) error {
		var l coordinationv1.Lease
		if err := json.Unmarshal(body, &l); err != nil || l.Spec.RenewTime == nil {
			return err
		}
		renewed[l.Name] = l.Spec.RenewTime.Time
		return nil
	})
	spoke := world.Spoke(s.objects.Speakers)
	var nodes []nodeClock
	for _, n := range s.objects.Nodes {
		ready := slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
		nodes = append(nodes, nodeClock{n.Name, ready, renewed[n.Name], spoke[n.Name]})
	}
	slices.SortFunc(nodes, func(a, b nodeClock) int { return cmp.Compare(a.node, b.node) })
	return readClocks(server, local, nodes), nil
}

// dates returns the API server's time, and this machine's at the middle of the question.
func (t *tool) dates(ctx context.Context, client rest.Interface) (server, local time.Time, err error) {
	config, err := t.access()
	if err != nil {
		return server, local, err
	}
	over, err := rest.HTTPClientFor(config)
	if err != nil {
		return server, local, err
	}
	ask, err := http.NewRequestWithContext(ctx, http.MethodGet, client.Get().AbsPath("/version").URL().String(), nil)
	if err != nil {
		return server, local, err
	}
	asked := t.now()
	answer, err := over.Do(ask)
	if err != nil {
		return server, local, err
	}
	defer answer.Body.Close()
	local = asked.Add(t.now().Sub(asked) / 2)
	server, err = http.ParseTime(answer.Header.Get("Date"))
	return server, local, err
}
