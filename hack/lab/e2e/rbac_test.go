package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/belfrylb/belfry/hack/lab"
)

// everyKind has an object of each kind that has a status of ours, none of which
// has an effect on the wire.
const everyKind = `apiVersion: belfry.dev/v1beta1
kind: IPAddressPool
metadata: {name: rbac}
spec: {addresses: [198.51.100.190], autoAssign: false}
---
apiVersion: belfry.dev/v1beta1
kind: L2Advertisement
metadata: {name: rbac}
spec: {ipAddressPools: [rbac], nodeSelectors: [{matchLabels: {nowhere: "true"}}]}
---
apiVersion: belfry.dev/v1beta1
kind: BGPPeer
metadata: {name: rbac}
spec:
  myASN: 64512
  peerASN: 64513
  peerAddress: 198.51.100.99
  passwordSecret: {name: rbac}
  nodeSelectors: [{matchLabels: {nowhere: "true"}}]
---
apiVersion: belfry.dev/v1beta1
kind: BGPAdvertisement
metadata: {name: rbac}
spec: {ipAddressPools: [rbac], nodeSelectors: [{matchLabels: {nowhere: "true"}}]}
---
apiVersion: belfry.dev/v1beta1
kind: BFDProfile
metadata: {name: rbac}
spec: {receiveInterval: 300}
---
apiVersion: belfry.dev/v1beta1
kind: Community
metadata: {name: rbac}
spec: {communities: [{name: rbac, value: "64512:1"}]}
`

// A grant is what one rule gives of one verb and resource. A name is given where
// the rule has one.
type grant struct{ account, namespace, group, resource, name, verb string }

func (g grant) String() string {
	what := g.resource
	if g.group != "" {
		what += "." + g.group
	}
	if g.name != "" {
		what += "/" + g.name
	}
	if g.namespace != "" {
		what += " in " + g.namespace
	}
	return fmt.Sprintf("%s: %s %s", g.account, g.verb, what)
}

// covers reports whether a request needed the grant.
func (g grant) covers(e lab.AuditEvent) bool {
	resource := e.ObjectRef.Resource
	if e.ObjectRef.Subresource != "" {
		resource += "/" + e.ObjectRef.Subresource
	}
	return strings.HasSuffix(e.User.Username, ":"+g.account) && e.Verb == g.verb &&
		e.ObjectRef.APIGroup == g.group && resource == g.resource &&
		(g.name == "" || e.ObjectRef.Name == g.name) &&
		(g.namespace == "" || e.ObjectRef.Namespace == g.namespace)
}

// needed reports whether a request shows that the grant is needed. Whoever
// watches has to list as well where the API server cannot begin a watch with
// what is there, as older ones cannot.
func (g grant) needed(e lab.AuditEvent) bool {
	watch := g
	watch.verb = "watch"
	return g.covers(e) || g.verb == "list" && watch.covers(e)
}

// grants reads what the shipped rules give our two accounts.
func grants(t *testing.T) []grant {
	t.Helper()
	text, err := os.ReadFile("../../../manifests/base/rbac.yaml")
	must(t, err)
	var all []grant
	for document := range strings.SplitSeq(string(text), "\n---\n") {
		var role rbacv1.ClusterRole // a Role has the same fields
		must(t, yaml.Unmarshal([]byte(document), &role))
		if role.Kind != "Role" && role.Kind != "ClusterRole" || slices.Contains([]string{"belfry-metrics-reader", "belfry-view", "belfry-probe"}, role.Name) {
			continue // people's
		}
		for _, rule := range role.Rules {
			names := rule.ResourceNames
			if len(names) == 0 {
				names = []string{""}
			}
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, name := range names {
						for _, verb := range rule.Verbs {
							all = append(all, grant{role.Name, role.Namespace, group, resource, name, verb})
						}
					}
				}
			}
		}
	}
	if len(all) < 30 {
		t.Fatalf("only %d grants are found: %v", len(all), all)
	}
	return all
}

// Everything that the rules allow is needed, and nothing else is.
func TestTheRulesGiveWhatIsUsedAndNothingElse(t *testing.T) {
	l := cluster(t)
	ctx := t.Context()
	t.Cleanup(func() {
		_, _ = l.Cluster.KubectlInput(context.Background(), everyKind, "delete", "--ignore-not-found", "--wait=false", "-f", "-")
		_, _ = l.Cluster.Kubectl(context.Background(), "delete", "service", "rbac", "--ignore-not-found")
	})
	must(t, l.Cluster.Apply(ctx, everyKind))

	// A Service takes an address, announces it, and ceases to be ours.
	serve(t, l, "rbac")
	eventually(t, 30*time.Second, "the Service is announced", func() error {
		out, err := l.Cluster.Kubectl(ctx, "get", "service", "rbac", `--output=jsonpath={.status.conditions[?(@.type=="belfry.dev/Announced")].status}`)
		if err == nil && out != "True" {
			err = fmt.Errorf("condition Announced is %q", out)
		}
		return err
	})
	_, err := l.Cluster.Kubectl(ctx, "patch", "service", "rbac", `--patch={"spec":{"type":"ClusterIP"}}`)
	must(t, err)
	// The key of gossip is changed.
	_, err = l.Cluster.Kubectl(ctx, "--namespace", lab.Namespace, "annotate", "--overwrite", "secret", "belfry-gossip", "belfry.dev/rotate=rbac")
	must(t, err)
	// The figures are read by who may.
	scraper(t, l)

	// Verbs appear in the audit log when they are answered; watches too.
	wanted := grants(t)
	eventually(t, time.Minute, "everything granted is used", func() error {
		events, err := l.Cluster.Audit(0, func(e lab.AuditEvent) bool { return e.ByServiceAccount(lab.Namespace) })
		if err != nil {
			return err
		}
		var unused error
		for _, g := range wanted {
			if !slices.ContainsFunc(events, g.needed) {
				unused = errors.Join(unused, fmt.Errorf("nobody needs: %s", g))
			}
		}
		return unused
	})
	// Nothing was refused, and nothing was asked for without a rule (by grace of
	// what everybody may do).
	events, err := l.Cluster.Audit(0, func(e lab.AuditEvent) bool { return e.ByServiceAccount(lab.Namespace) })
	must(t, err)
	for _, e := range events {
		if e.ResponseStatus.Code == 403 {
			t.Errorf("refused: %s", e)
		}
		if !slices.ContainsFunc(wanted, func(g grant) bool { return g.covers(e) }) {
			t.Errorf("no rule covers: %s", e)
		}
	}
}

// scraper reads the metrics of every program as a ServiceAccount that may, and
// is refused as one that may not.
func scraper(t *testing.T, l *lab.Lab) {
	t.Helper()
	must(t, l.Cluster.Apply(t.Context(), `apiVersion: v1
kind: ServiceAccount
metadata: {name: scraper, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: scraper}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: belfry-metrics-reader}
subjects: [{kind: ServiceAccount, name: scraper, namespace: default}]
`))
	t.Cleanup(func() {
		_, _ = l.Cluster.Kubectl(context.Background(), "delete", "clusterrolebinding", "scraper", "--ignore-not-found")
		_, _ = l.Cluster.Kubectl(context.Background(), "delete", "serviceaccount", "scraper", "--ignore-not-found")
	})
	tokens := map[string]string{}
	for _, account := range []string{"scraper", "default"} {
		out, err := l.Cluster.Kubectl(t.Context(), "create", "token", account)
		must(t, err)
		tokens[account] = strings.TrimSpace(out)
	}
	ports := map[string][]int{lab.ControlPlane: {lab.SecureControllerMetrics, lab.SecureControllerMetrics + 10}}
	for _, node := range l.Network.Nodes() {
		ports[node] = []int{lab.SecureSpeakerMetrics}
	}
	for host, all := range ports {
		for _, port := range all {
			for account, want := range map[string]string{"scraper": "200", "default": "403", "": "401"} {
				eventually(t, 20*time.Second, fmt.Sprintf("%s reads the metrics of %s:%d: %s", account, host, port, want), func() error {
					args := []string{"curl", "--silent", "--insecure", "--max-time", "10", "--output", "/dev/null", "--write-out", "%{http_code}", "https://127.0.0.1:" + strconv.Itoa(port) + "/metrics"}
					if account != "" {
						args = append(args, "--header", "Authorization: Bearer "+tokens[account])
					}
					out, err := l.Network.Exec(t.Context(), host, args...)
					if err == nil && out != want {
						err = fmt.Errorf("status %s", out)
					}
					return err
				})
			}
		}
	}
}
