package kube_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/hack/lab"
	"github.com/belfrylb/belfry/internal/config"
	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/objects"
)

// These tests do to an API server what happens to one in life. It is their own.

// A said is what was logged.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

// lines returns the lines that contain all of the parts.
func (s *said) lines(parts ...string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for line := range strings.Lines(s.text.String()) {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

// A life is a Cluster that lives through what happens.
type life struct {
	*bench
	*kube.Cluster
	said *said
}

// once waits until something was said, and says if it was said again.
func (l *life) once(parts ...string) {
	l.Helper()
	l.eventually(strings.Join(parts, " ")+" is told", func() (string, bool) {
		got := l.said.lines(parts...)
		return fmt.Sprintf("%q", l.said.lines()), len(got) > 0
	})
	l.onlyOnce(parts...)
}

func (l *life) onlyOnce(parts ...string) {
	l.Helper()
	if got := l.said.lines(parts...); len(got) != 1 {
		l.Errorf("told %d times, want once:\n%s", len(got), strings.Join(got, "\n"))
	}
}

// sees waits until a new Service is seen: all that can be read goes on.
func (l *life) sees(name string) {
	l.Helper()
	l.create(name)
	l.shows(name)
}

func (l *life) shows(name string) {
	l.Helper()
	l.eventually("service "+name+" is seen", func() (string, bool) {
		_, ok := l.Service(lb.ServiceKey{Namespace: l.ns, Name: name})
		return fmt.Sprint(names(l.snapshot(l.Cluster))), ok
	})
}

// begin watches by a configuration until the test ends.
func (b *bench) begin(config *rest.Config, o objects.Scope) *life {
	b.Helper()
	l := &life{bench: b, said: &said{}}
	log := slog.New(slog.NewTextHandler(io.MultiWriter(l.said, b.Output()), nil))
	clients, err := kube.NewClients(config, "test")
	b.must(err)
	l.Cluster = kube.NewCluster(clients.Core, clients.Own, o, log)
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	wg.Go(func() { l.Run(ctx) })
	b.Cleanup(func() { cancel(); wg.Wait() })
	select {
	case <-l.Synced():
	case <-time.After(20 * time.Second):
		b.Fatalf("the cluster is not read within 20 s: %v", l.Unread())
	}
	return l
}

func (b *bench) configFor(account string) *rest.Config {
	b.Helper()
	config, err := b.lab.Cluster.ConfigFor(b.Context(), lab.Namespace, account)
	b.must(err)
	return config
}

// on returns the bench of a subtest, with a namespace of its own.
func (b *bench) on(t *testing.T) *bench {
	c := *b
	c.T, c.ns = t, strings.ToLower(strings.ReplaceAll(filepath.Base(t.Name()), "_", "-"))
	c.ns = c.ns[:min(len(c.ns), 60)]
	_, err := c.admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: c.ns}}, metav1.CreateOptions{})
	c.must(err)
	return &c
}

func (b *bench) kubectl(args ...string) {
	b.Helper()
	_, err := b.lab.Cluster.Kubectl(b.Context(), args...)
	b.must(err)
}

// A meddler stands between a client and the API server.
type meddler struct {
	mu   sync.Mutex
	with func(*http.Request) (*http.Response, error) // nil, nil lets it pass
	open map[int]io.Closer
	n    int
}

// meddle changes what the meddler does, and cuts all watches that are open.
func (m *meddler) meddle(with func(*http.Request) (*http.Response, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.with = with
	for _, c := range m.open {
		c.Close()
	}
	clear(m.open)
}

type passer func(*http.Request) (*http.Response, error)

func (p passer) RoundTrip(r *http.Request) (*http.Response, error) { return p(r) }

func (m *meddler) between(config *rest.Config) *rest.Config {
	m.open = map[int]io.Closer{}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return passer(func(r *http.Request) (*http.Response, error) {
			m.mu.Lock()
			with := m.with
			m.mu.Unlock()
			if with != nil {
				if response, err := with(r); response != nil || err != nil {
					return response, err
				}
			}
			response, err := next.RoundTrip(r)
			if err == nil && r.URL.Query().Get("watch") == "true" {
				m.mu.Lock()
				m.n++
				m.open[m.n] = response.Body
				m.mu.Unlock()
			}
			return response, err
		})
	})
	return config
}

// answers makes a meddler answer a number of requests of some kind by a status.
func answers(count, code int, which func(*http.Request) bool) func(*http.Request) (*http.Response, error) {
	var mu sync.Mutex
	return func(r *http.Request) (*http.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		if count <= 0 || !which(r) {
			return nil, nil
		}
		count--
		body := fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"code":%d}`,
			map[int]string{410: "Expired", 429: "TooManyRequests"}[code], code)
		return &http.Response{
			StatusCode: code, Request: r, Header: http.Header{"Content-Type": {"application/json"}, "Retry-After": {"1"}},
			Body: io.NopCloser(strings.NewReader(body)),
		}, nil
	}
}

func watches(r *http.Request) bool { return r.URL.Query().Get("watch") == "true" }

func TestEverythingElseGoesOnWhateverTheAPIServerDoes(t *testing.T) {
	own := lab.Start(t, lab.Options{ControlPlaneOnly: true})
	all := newBenchOn(t, own)
	pool := &v1beta1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: "edge"}, Spec: v1beta1.IPAddressPoolSpec{Addresses: []v1beta1.AddressRange{"198.51.100.0/28", "2001:db8::/124"}}}
	_, err := all.own.BelfryV1beta1().IPAddressPools().Create(t.Context(), pool, metav1.CreateOptions{})
	all.must(err)

	t.Run("newer version", func(t *testing.T) {
		b := all.on(t)
		l := b.begin(b.configFor(speaker), objects.Scope{})
		const schema = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/"
		b.kubectl("patch", "crd", "l2advertisements.belfry.dev", "--type=json", "-p",
			`[{"op":"add","path":"`+schema+`failback/enum/-","value":"Sometimes"},{"op":"add","path":"`+schema+`color","value":{"type":"string"}}]`)
		b.eventually("the API server takes what is new", func() (string, bool) {
			_, err := b.lab.Cluster.KubectlInput(b.Context(), `{apiVersion: belfry.dev/v1beta1, kind: L2Advertisement, metadata: {name: newer}, spec: {failback: Sometimes, color: blue}}`, "create", "-f", "-")
			return fmt.Sprint(err), err == nil
		})
		b.must(b.lab.Cluster.Apply(b.Context(), `{apiVersion: belfry.dev/v1beta1, kind: L2Advertisement, metadata: {name: plain}, spec: {}}`))
		b.eventually("the plain one counts, and the newer one says what is wrong with it", func() (string, bool) {
			setting, findings := l.Setting()
			var got []string
			for _, v := range findings {
				if v.Kind == kube.KindL2Advertisement {
					got = append(got, fmt.Sprint(v.Name, " ", v.Accepted(), " ", v.Message()))
				}
			}
			slices.Sort(got)
			text := strings.Join(got, "; ")
			return fmt.Sprint(text, setting.L2Advertisements), len(got) == 2 && strings.Contains(got[0], "newer false") &&
				strings.Contains(got[0], "Sometimes") && strings.HasPrefix(got[1], "plain true") &&
				slices.ContainsFunc(setting.L2Advertisements, func(a lb.L2Advertisement) bool { return a.Name == "plain" })
		})
		b.kubectl("delete", "l2advertisement", "newer", "plain")
		b.must(b.lab.Product.Install(b.Context()))
	})

	t.Run("while tokens are rotated", func(t *testing.T) {
		t.Run("token", func(t *testing.T) {
			t.Parallel()
			b := all.on(t)
			dir := t.TempDir()
			tokenFile, kubeconfig := filepath.Join(dir, "token"), filepath.Join(dir, "config")
			admin := b.lab.Cluster.AdminConfig()
			config := clientcmdapi.NewConfig()
			config.Clusters["c"] = &clientcmdapi.Cluster{Server: admin.Host, CertificateAuthority: admin.CAFile}
			config.AuthInfos["u"] = &clientcmdapi.AuthInfo{TokenFile: tokenFile}
			config.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
			config.CurrentContext = "x"
			b.must(clientcmd.WriteToFile(*config, kubeconfig))
			// A token ends with the Secret that it is bound to.
			rotate := func(secret string) {
				s, err := b.admin.CoreV1().Secrets(lab.Namespace).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: secret}}, metav1.CreateOptions{})
				b.must(err)
				token, err := b.admin.CoreV1().ServiceAccounts(lab.Namespace).CreateToken(t.Context(), speaker, &authenticationv1.TokenRequest{
					Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Secret", APIVersion: "v1", Name: secret, UID: s.UID}},
				}, metav1.CreateOptions{})
				b.must(err)
				b.must(os.WriteFile(tokenFile, []byte(token.Status.Token), 0o600))
			}
			rotate("first")
			loaded, err := kube.LoadConfig(kubeconfig)
			b.must(err)
			m := &meddler{}
			l := b.begin(m.between(loaded), objects.Scope{})
			l.sees("before")
			old := rest.AnonymousClientConfig(loaded)
			token, err := os.ReadFile(tokenFile)
			b.must(err)
			old.BearerToken = string(token)
			ended := kubernetes.NewForConfigOrDie(old)
			rotate("second")
			b.must(b.admin.CoreV1().Secrets(lab.Namespace).Delete(t.Context(), "first", metav1.DeleteOptions{}))
			l.bench = b.within(2 * time.Minute)
			l.eventually("the first token is refused", func() (string, bool) {
				_, err := ended.CoreV1().Services(b.ns).List(t.Context(), metav1.ListOptions{})
				return fmt.Sprint(err), apierrors.IsUnauthorized(err)
			})
			m.meddle(nil)
			l.sees("rotated")
			l.shows("before")
		})

		t.Run("kinds and watches", func(t *testing.T) {
			t.Parallel()
			t.Run("kind missing", func(t *testing.T) {
				b := all.on(t)
				root, err := lab.Root()
				b.must(err)
				crd := filepath.Join(root, "manifests", "crds", "belfry.dev_communities.yaml")
				b.kubectl("delete", "-f", crd)
				lives := map[string]*life{
					speaker:    b.begin(b.configFor(speaker), objects.Scope{Role: objects.Announcing}),
					controller: b.begin(b.configFor(controller), objects.Scope{Role: objects.Allocating}),
				}
				each := func(look func(account string, l *life)) {
					for account, l := range lives {
						look(account, l)
					}
				}
				each(func(account string, l *life) {
					l.once("kind does not exist", "kind=communities")
					l.sees(account + "-1")
					if n := len(l.Snapshot().Pools); n != 1 {
						t.Errorf("%s sees %d pools, want 1", account, n)
					}
				})
				// It comes while they run, and goes again.
				b.kubectl("apply", "-f", crd)
				b.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", crd)
				each(func(_ string, l *life) { l.once("can be read again", "kind=communities") })
				b.kubectl("delete", "-f", crd)
				each(func(account string, l *life) {
					l.eventually("it is told anew", func() (string, bool) {
						got := l.said.lines("kind does not exist", "kind=communities")
						return fmt.Sprint(got), len(got) == 2
					})
					l.sees(account + "-2")
					if got := l.said.lines("level=WARN"); len(got) != 2 {
						t.Errorf("%s tells more than that:\n%s", account, strings.Join(got, "\n"))
					}
				})
				b.kubectl("apply", "-f", crd)
				b.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", crd)
			})

			t.Run("watches end", func(t *testing.T) {
				b := all.on(t)
				m := &meddler{}
				l := b.begin(m.between(b.configFor(speaker)), objects.Scope{})
				l.sees("before")
				for name, with := range map[string]func(*http.Request) (*http.Response, error){
					"cut":    nil,
					"gone":   answers(20, http.StatusGone, watches),
					"busy":   answers(20, http.StatusTooManyRequests, watches),
					"broken": answers(20, http.StatusInternalServerError, func(*http.Request) bool { return true }),
					"slow": func(r *http.Request) (*http.Response, error) {
						select {
						case <-r.Context().Done():
							return nil, r.Context().Err()
						case <-time.After(time.Second):
							return nil, nil
						}
					},
				} {
					m.meddle(with)
					l.sees(name)
					l.shows("before")
				}
				if got := l.said.lines("level=WARN"); len(got) > 0 {
					t.Errorf("told although nothing is refused:\n%s", strings.Join(got, "\n"))
				}
			})

			t.Run("forbidden", func(t *testing.T) {
				b := all.on(t)
				m := &meddler{}
				running := b.begin(m.between(b.configFor(speaker)), objects.Scope{})
				_, err := b.own.BelfryV1beta1().BFDProfiles().Create(t.Context(), &v1beta1.BFDProfile{ObjectMeta: metav1.ObjectMeta{Name: "quick"}}, metav1.CreateOptions{})
				b.must(err)
				accepts := func(l *life) int {
					_, findings := l.Setting()
					return len(slices.DeleteFunc(findings, func(v config.Finding) bool { return v.Kind != kube.KindBFDProfile }))
				}
				b.eventually("the profile is read", func() (string, bool) { n := accepts(running); return fmt.Sprint(n), n == 1 })
				b.allow(speaker, "bfdprofiles", false)
				m.meddle(nil)
				running.once("those read before stay in force", "kind=bfdprofiles")
				running.sees("one")
				if n := accepts(running); n != 1 {
					t.Errorf("%d profiles are known, want that which was read before", n)
				}
				// One that starts goes on without.
				fresh := b.begin(b.configFor(speaker), objects.Scope{})
				fresh.once("kind=bfdprofiles", "Forbidden")
				fresh.sees("two")
				b.allow(speaker, "bfdprofiles", true)
				fresh.once("can be read again", "kind=bfdprofiles")
				running.once("can be read again", "kind=bfdprofiles")
				fresh.eventually("the profile is read once it may be", func() (string, bool) { n := accepts(fresh); return fmt.Sprint(n), n == 1 })
				if got := running.said.lines("level=WARN"); len(got) != 1 {
					t.Errorf("more is told than that:\n%s", strings.Join(got, "\n"))
				}
			})
		})
	})

	t.Run("certificate", func(t *testing.T) {
		b := all.on(t)
		l := b.begin(b.configFor(speaker), objects.Scope{})
		l.sees("before")
		former := b.certificate()
		b.must(b.lab.Cluster.ReplaceServingCertificate())
		b.must(b.lab.Cluster.RestartAPI(t.Context()))
		if serial := b.certificate(); serial == former {
			t.Fatalf("the API server still answers by its certificate %s", former)
		}
		l.bench = b.within(time.Minute)
		l.sees("replaced")
		l.shows("before")
	})

	t.Run("etcd restored", func(t *testing.T) {
		b := all.on(t)
		l := b.begin(b.configFor(controller), objects.Scope{Role: objects.Allocating})
		l.sees("kept")
		b.must(b.lab.Cluster.BackupEtcd(t.Context()))
		l.sees("lost")
		// Many versions later, the last of them an answer to a write of ours.
		for i := range 300 {
			b.patch("lost", fmt.Sprintf(`{"metadata":{"labels":{"i":"%d"}}}`, i))
		}
		key := lb.ServiceKey{Namespace: b.ns, Name: "kept"}
		allocated := objects.ServiceWrite{Allocated: objects.Condition{Status: "False", Reason: "NoPool", Message: "m"}}
		now, _ := l.Service(key)
		if o, err := l.WriteService(t.Context(), now, allocated, objects.AllParts); o != kube.Done {
			t.Fatal(o, err)
		}
		b.must(b.lab.Cluster.RestoreEtcd(t.Context()))
		b.eventually("what was never written is forgotten", func() (string, bool) {
			_, lost := l.Service(lb.ServiceKey{Namespace: b.ns, Name: "lost"})
			kept, ok := l.Service(key)
			return fmt.Sprint(lost, ok, kept.Version, kept.Allocated), !lost && ok && kept.Allocated == objects.Condition{}
		})
		l.sees("after")
		now, _ = l.Service(key)
		if o, err := l.WriteService(t.Context(), now, allocated, objects.AllParts); o != kube.Done {
			t.Errorf("writing goes on: %v, %v", o, err)
		}
		if now, _ = l.Service(key); now.Allocated.Reason != "NoPool" {
			t.Errorf("our own write is not seen: %+v", now.Allocated)
		}
	})
}

// within returns a bench of more patience.
func (b *bench) within(d time.Duration) *bench {
	c := *b
	c.patience = d
	return &c
}

// certificate is the serial number of what the API server answers by.
func (b *bench) certificate() string {
	b.Helper()
	config, err := rest.TLSConfigFor(b.lab.Cluster.AdminConfig())
	b.must(err)
	c, err := tls.Dial("tcp", strings.TrimPrefix(b.lab.Cluster.AdminConfig().Host, "https://"), config)
	b.must(err)
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// allow gives a ServiceAccount the right to read a kind of ours, or takes it.
func (b *bench) allow(account, resource string, may bool) {
	b.Helper()
	role, err := b.admin.RbacV1().ClusterRoles().Get(b.Context(), account, metav1.GetOptions{})
	b.must(err)
	for i, r := range role.Rules {
		if !slices.Contains(r.Resources, "ipaddresspools") || !slices.Contains(r.Verbs, "watch") {
			continue
		}
		role.Rules[i].Resources = slices.DeleteFunc(r.Resources, func(r string) bool { return r == resource })
		if may {
			role.Rules[i].Resources = append(role.Rules[i].Resources, resource)
		}
	}
	_, err = b.admin.RbacV1().ClusterRoles().Update(b.Context(), role, metav1.UpdateOptions{})
	b.must(err)
}
