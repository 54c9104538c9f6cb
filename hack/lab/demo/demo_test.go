package demo_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/belfrylb/belfry/hack/lab"
	"github.com/belfrylb/belfry/hack/lab/demo"
)

func TestTheDemoTellsOfATakeoverAndLeavesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED, NOT PASSED: -short: the lab is left out")
	}
	if why := lab.Unable(); why != nil {
		t.Skipf("SKIPPED, NOT PASSED: the demo needs the lab: %v", why)
	}
	var out strings.Builder
	err := demo.Run(t.Context(), demo.Options{Out: &out})
	t.Log(out.String())
	if err != nil {
		t.Fatal(err)
	}
	rest := out.String()
	for _, next := range []string{
		"$ kubectl expose deployment web --port=80 --type=LoadBalancer",
		"198.51.100.2", "2001:db8:51::2", // the addresses of kubectl get service
		"$ curl http://198.51.100.2", "node=node",
		"$ curl http://[2001:db8:51::2", "node=node",
		// Nobody answers a question that was about to be sent when the power went.
		"What the client saw", "nobody answers for", "tells everybody", "answers for", "without an answer", "requests failed",
		"Taking the cluster down",
	} {
		_, after, found := strings.Cut(rest, next)
		if !found {
			t.Fatalf("the demo does not say %q after what went before", next)
		}
		rest = after
	}
	if !strings.Contains(out.String(), "loses power: its link is cut") {
		t.Error("the demo does not say when the power was cut")
	}
	_, name, _ := strings.Cut(out.String(), "lab bf")
	name = "bf" + name[:4]
	namespaces, err := exec.Command("ip", "netns", "list").Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(namespaces), name) {
		t.Errorf("the demo left namespaces of %s behind:\n%s", name, namespaces)
	}
}
