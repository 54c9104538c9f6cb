package cli

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

func TestClocksAreComparedWithTheAPIServers(t *testing.T) {
	server := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s := func(seconds int) time.Time { return server.Add(time.Duration(seconds) * time.Second) }
	for name, c := range map[string]struct {
		local time.Time
		nodes []nodeClock
		want  []string
	}{
		"all is well":                        {s(1), []nodeClock{{"n1", true, s(-9), time.Time{}}, {"n2", true, s(-40), s(-3600)}}, []string{"ok this machine and 2 nodes have the time of the API server"}},
		"within the seconds of a Date":       {s(3), []nodeClock{{"n1", true, s(3), s(3)}}, []string{"ok this machine and 1 nodes have the time of the API server"}},
		"this machine is ahead":              {s(90), []nodeClock{{"n1", true, s(-9), time.Time{}}}, []string{"!! the clock of this machine is at least 1m30s ahead of the API server's"}},
		"this machine is behind":             {s(-4), []nodeClock{{"n1", true, s(-9), time.Time{}}}, []string{"!! the clock of this machine is at least 4s behind the API server's"}},
		"a kubelet is ahead":                 {s(0), []nodeClock{{"n1", true, s(10), time.Time{}}}, []string{"!! the clock of node n1 is at least 10s ahead of the API server's"}},
		"a speaker is ahead":                 {s(0), []nodeClock{{"n1", true, s(-1), s(7200)}}, []string{"!! the clock of node n1 is at least 2h0m0s ahead of the API server's"}},
		"a node is ready, and its Lease old": {s(0), []nodeClock{{"n1", true, s(-650), time.Time{}}}, []string{"!! the clock of node n1 is at least 10m0s behind the API server's"}},
		"a node is dead":                     {s(0), []nodeClock{{"n1", false, s(-650), time.Time{}}}, []string{"ok this machine and 1 nodes have the time of the API server"}},
		"Leases are not to be had":           {s(0), []nodeClock{{"n1", true, time.Time{}, s(-5)}}, []string{"?? whether clocks of nodes are behind: no Lease of a node could be read"}},
		"Leases are not to be had, and a speaker is ahead": {s(0), []nodeClock{{"n1", true, time.Time{}, s(60)}}, []string{
			"!! the clock of node n1 is at least 1m0s ahead of the API server's", "?? whether clocks of nodes are behind: no Lease of a node could be read",
		}},
	} {
		var got []string
		for _, is := range readClocks(server, c.local, c.nodes) {
			got = append(got, marks[is.Verdict].mark+" "+is.What)
		}
		if strings.Join(got, "\n") != strings.Join(c.want, "\n") {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// An http.RoundTripper of a function.
type answering func(*http.Request) *http.Response

func (f answering) RoundTrip(r *http.Request) (*http.Response, error) { return f(r), nil }

// The time of this machine is that of the middle of the question, as the server's is.
func TestTheTimeOfTheAPIServerIsInItsAnswers(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	tl := &tool{override: &clientcmd.ConfigOverrides{ClusterInfo: clientcmdapi.Cluster{Server: "http://api"}}, where: &clientcmd.ClientConfigLoadingRules{}}
	tl.now = func() time.Time { return now }
	tl.transport = answering(func(r *http.Request) *http.Response {
		if r.URL.String() != "http://api/version" {
			t.Errorf("asked for %s", r.URL)
		}
		now = now.Add(10 * time.Second)
		return &http.Response{StatusCode: 200, Header: http.Header{"Date": []string{"Sun, 01 Mar 2026 11:00:00 GMT"}}, Body: http.NoBody, Request: r}
	})
	client, err := tl.reader()
	if err != nil {
		t.Fatal(err)
	}
	server, local, err := tl.dates(t.Context(), client)
	if err != nil || !server.Equal(time.Date(2026, 3, 1, 11, 0, 0, 0, time.UTC)) || !local.Equal(time.Date(2026, 3, 1, 12, 0, 5, 0, time.UTC)) {
		t.Errorf("server %v, local %v, %v", server, local, err)
	}
}
