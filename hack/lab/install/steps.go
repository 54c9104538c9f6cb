package install

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

const inNamespace = "--namespace=" + lab.Namespace

func (r *run) restartSpeakers(ctx context.Context) error {
	r.step("Rolling restart of the speakers; planned, so nothing may be lost")
	return r.during(ctx, planned, func(note func(string, ...any)) error {
		note("kubectl rollout restart daemonset/belfry-speaker")
		if err := r.kubectl(ctx, "rollout", "restart", "daemonset/belfry-speaker", inNamespace); err != nil {
			return err
		}
		_, err := r.lab.Cluster.Kubectl(ctx, "rollout", "status", "daemonset/belfry-speaker", inNamespace, "--timeout=180s")
		return err
	})
}

func (r *run) restartControllers(ctx context.Context) error {
	r.step("Rolling restart of the controllers; planned")
	return r.during(ctx, planned, func(note func(string, ...any)) error {
		note("kubectl rollout restart deployment/belfry-controller")
		if err := r.kubectl(ctx, "rollout", "restart", "deployment/belfry-controller", inNamespace); err != nil {
			return err
		}
		_, err := r.lab.Cluster.Kubectl(ctx, "rollout", "status", "deployment/belfry-controller", inNamespace, "--timeout=180s")
		return err
	})
}

func (r *run) upgrade(ctx context.Context) error {
	r.step("Upgrading both to another version; planned")
	image, err := r.get(ctx, "{.spec.template.spec.containers[0].image}", "deployment/belfry-controller", inNamespace)
	if err != nil {
		return err
	}
	image = image[:strings.LastIndexByte(image, ':')+1] + newer
	return r.during(ctx, planned, func(note func(string, ...any)) error {
		note("kubectl set image ... *=%s", image)
		for _, what := range []string{"deployment/belfry-controller", "daemonset/belfry-speaker"} {
			if err := r.kubectl(ctx, "set", "image", what, "*="+image, inNamespace); err != nil {
				return err
			}
		}
		return r.rolledOut(ctx)
	})
}

// drainAnnotated takes the addresses off a node and leaves all else there.
func (r *run) drainAnnotated(ctx context.Context) error {
	owner, err := r.owner(ctx, r.addresses[0])
	if err != nil {
		return err
	}
	r.step("Draining %s of addresses alone, by annotation; planned", owner)
	return r.during(ctx, planned, func(note func(string, ...any)) error {
		note("kubectl annotate node %s belfry.dev/drain=true", owner)
		if err := r.kubectl(ctx, "annotate", "node", owner, "belfry.dev/drain=true"); err != nil {
			return err
		}
		if err := r.moved(ctx, owner); err != nil {
			return err
		}
		note("all addresses have left %s", owner)
		return r.kubectl(ctx, "annotate", "node", owner, "belfry.dev/drain-")
	})
}

// moved waits until a node answers for no address.
func (r *run) moved(ctx context.Context, node string) error {
	return r.until(ctx, 30*time.Second, "the addresses leave "+node, func() error {
		for _, address := range r.addresses {
			owner, err := r.owner(ctx, address)
			if err != nil {
				return err
			}
			if owner == node {
				return fmt.Errorf("it answers for %s", address)
			}
		}
		return nil
	})
}

// drainNode does what one does before maintenance. kubectl drain leaves the
// DaemonSet's Pods, and so the addresses stay; the backends go elsewhere.
func (r *run) drainNode(ctx context.Context) error {
	owner, err := r.owner(ctx, r.addresses[0])
	if err != nil {
		return err
	}
	r.step("Cordoning and draining %s, which answers for %s; planned", owner, r.addresses[0])
	return r.during(ctx, planned, func(note func(string, ...any)) error {
		note("kubectl drain %s", owner)
		if err := r.kubectl(ctx, "drain", owner, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s"); err != nil {
			return err
		}
		note("%s is drained", owner)
		if err := r.kubectl(ctx, "rollout", "status", "deployment/web", "--timeout=120s"); err != nil {
			return err
		}
		if now, err := r.owner(ctx, r.addresses[0]); err != nil || now != owner {
			r.fault("cordon and drain moved %s from %s to %s (%v)", r.addresses[0], owner, now, err)
		}
		return nil
	})
}

// deleteNode goes on where drainNode ended: the node leaves the cluster, and
// comes back as a new one.
func (r *run) deleteNode(ctx context.Context) error {
	owner, err := r.owner(ctx, r.addresses[0])
	if err != nil {
		return err
	}
	r.step("Deleting the drained Node %s, which still answers for %s; planned", owner, r.addresses[0])
	err = r.during(ctx, planned, func(note func(string, ...any)) error {
		note("kubectl delete node %s", owner)
		if err := r.kubectl(ctx, "delete", "node", owner); err != nil {
			return err
		}
		if err := r.moved(ctx, owner); err != nil {
			return err
		}
		note("all addresses have left %s", owner)
		return nil
	})
	if err != nil {
		return err
	}
	if err := r.until(ctx, 60*time.Second, "the report of "+owner+" goes with it", func() error {
		out, err := r.lab.Cluster.Kubectl(ctx, "get", "speakerstatus", owner, "--ignore-not-found", "--output=name")
		if err == nil && out != "" {
			err = errors.New("it is there")
		}
		return err
	}); err != nil {
		return err
	}
	r.say("SpeakerStatus %s went with it", owner)
	r.say("%s is started anew, and joins", owner)
	if err := r.lab.Processes.Restart(ctx, lab.MachineOn(owner)); err != nil {
		return err
	}
	return r.whole(ctx, owner)
}

// whole waits until a node is back in the cluster, with its speaker.
func (r *run) whole(ctx context.Context, node string) error {
	if err := r.until(ctx, 60*time.Second, node+" is Ready", func() error {
		ready, err := r.get(ctx, `{.status.conditions[?(@.type=="Ready")].status}`, "node", node)
		if err == nil && ready != "True" {
			err = errors.New("Ready is " + ready)
		}
		return err
	}); err != nil {
		return err
	}
	if err := r.rolledOut(ctx); err != nil {
		return err
	}
	return r.kubectl(ctx, "rollout", "status", "deployment/web", "--timeout=120s")
}

// powerOff is the one change here that nobody planned.
func (r *run) powerOff(ctx context.Context) error {
	owner, err := r.owner(ctx, r.addresses[0])
	if err != nil {
		return err
	}
	pods, err := r.get(ctx, `{range .items[?(@.spec.nodeName=="`+owner+`")]}{.status.podIPs[*].ip} {end}`, "pods", "--selector=app=web")
	if err != nil {
		return err
	}
	dead, err := parseAddresses(pods)
	if err != nil {
		return err
	}
	r.step("Cutting the power of %s, which answers for %s; unplanned", owner, r.addresses[0])
	r.say("(a third of the requests fails until Kubernetes takes the dead node's Pods out of service, ten seconds here)")
	if err := r.during(ctx, unplanned, func(note func(string, ...any)) error {
		note("%s loses power", owner)
		if err := r.lab.Machines.PowerOff(ctx, owner); err != nil {
			return err
		}
		if err := r.moved(ctx, owner); err != nil {
			return err
		}
		if err := r.until(ctx, 60*time.Second, owner+" is NotReady", func() error {
			ready, err := r.get(ctx, `{.status.conditions[?(@.type=="Ready")].status}`, "node", owner)
			if err == nil && ready == "True" {
				err = errors.New("it is Ready")
			}
			return err
		}); err != nil {
			return err
		}
		note("Kubernetes has noticed")
		return nil
	}); err != nil {
		return err
	}
	r.say("power is back")
	if err := r.lab.Machines.PowerOn(ctx, owner); err != nil {
		return err
	}
	if err := r.whole(ctx, owner); err != nil {
		return err
	}
	// What comes next answers for itself alone.
	r.say("the nodes forget what was asked of the Pods that died: %v", dead)
	for _, pod := range dead {
		if err := r.lab.Machines.ForgetConnections(ctx, pod); err != nil {
			return err
		}
	}
	return nil
}

// uninstall removes everything while Services have addresses, as the install page
// says.
func (r *run) uninstall(ctx context.Context) error {
	r.step("Removing it all, while Services hold addresses")
	if left, err := LeftBehind(ctx, r.lab); err != nil || len(left) == 0 {
		return fmt.Errorf("the search for what is left behind finds nothing while all is there (%v)", err)
	}
	if err := r.documented(ctx, "## Uninstall", 0); err != nil {
		return err
	}
	return r.clean(ctx)
}

// documented runs a block of commands of the install page.
func (r *run) documented(ctx context.Context, heading string, n int) error {
	script, err := Commands(r.root, heading, n)
	if err != nil {
		return err
	}
	return r.shell(ctx, script)
}

// shell runs a script, and shows it with what it prints.
func (r *run) shell(ctx context.Context, script string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	cmd, err := r.lab.Cluster.Shell(ctx, script)
	if err != nil {
		return err
	}
	out := indent{r.out}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("commands failed: %w:\n%s", err, script)
	}
	return nil
}

// clean finds out whether anything is left behind: on the Services, which stay,
// and then anywhere.
func (r *run) clean(ctx context.Context) error {
	for name, annotations := range map[string]string{"web": "", "routed": `{"belfry.dev/address-pool":"routed"}`} {
		got, err := r.get(ctx, "{.metadata.annotations} {.status}", "service", name)
		if err != nil {
			return err
		}
		if want := annotations + ` {"loadBalancer":{}}`; got != want {
			r.fault("Service %s is left with %s, want %s", name, got, want)
		}
	}
	if err := r.kubectl(ctx, "delete", "service", "web", "routed"); err != nil {
		return err
	}
	left, err := LeftBehind(ctx, r.lab)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		r.fault("left behind: %v", left)
		return nil
	}
	r.say("nothing in the cluster names belfry any more")
	return nil
}

// chart does the same by Helm: installs the chart, upgrades it with a value
// changed, and uninstalls it.
func (r *run) chart(ctx context.Context) (err error) {
	r.step("The same by Helm")
	if err := r.documented(ctx, "## With Helm", 0); err != nil {
		return err
	}
	if err := r.rolledOut(ctx); err != nil {
		return err
	}
	if err := r.configure(ctx); err != nil {
		return err
	}
	if r.addresses, err = r.exposeAs(ctx, "web", dualStack); err != nil {
		return err
	}
	for _, address := range r.addresses {
		if err := r.curl(ctx, address); err != nil {
			return err
		}
	}
	r.routed = nil
	return r.routeSecured(ctx)
}

// changeValue upgrades the release by one value; planned.
func (r *run) changeValue(ctx context.Context, value string) error {
	r.step("Upgrading the release with %s changed; planned", value)
	script, err := Commands(r.root, "## Upgrade", 1)
	if err != nil {
		return err
	}
	return r.during(ctx, planned, func(note func(string, ...any)) error {
		note("helm upgrade ... --set %s", value)
		if err := r.shell(ctx, strings.TrimSuffix(script, "\n")+" --set "+value); err != nil {
			return err
		}
		return r.rolledOut(ctx)
	})
}

// uninstallChart removes the release while Services hold addresses.
func (r *run) uninstallChart(ctx context.Context) error {
	r.step("Removing the release, while Services hold addresses")
	if err := r.documented(ctx, "## Uninstall", 1); err != nil {
		return err
	}
	return r.clean(ctx)
}

// LeftBehind lists every object of the cluster that names belfry, but for Events
// and the lab's own web server.
func LeftBehind(ctx context.Context, l *lab.Lab) ([]string, error) {
	out, err := l.Cluster.Kubectl(ctx, "api-resources", "--verbs=list", "--output=name")
	if err != nil {
		return nil, err
	}
	kinds := slices.DeleteFunc(strings.Fields(out), func(kind string) bool {
		return strings.HasPrefix(kind, "events") // they tell of the past, and expire
	})
	out, err = l.Cluster.Kubectl(ctx, "get", strings.Join(kinds, ","), "--all-namespaces", "--ignore-not-found",
		`--output=go-template={{range .items}}{{.kind}} {{.metadata.namespace}}/{{.metadata.name}} {{.metadata.annotations}} {{.metadata.labels}} {{.metadata.finalizers}} {{.status}}{{"\n"}}{{end}}`)
	if err != nil {
		return nil, err
	}
	var left []string
	for line := range strings.Lines(out) {
		line = strings.ReplaceAll(strings.TrimSpace(line), " <no value>/", " /")
		if strings.Contains(line, "belfry") && !strings.Contains(line, "ghcr.io/belfrylb/web") {
			left = append(left, line)
		}
	}
	return left, nil
}
