package kube

import (
	"context"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/internal/scrape"
)

// MayGet returns a review of tokens by the API server: whether a token's user
// may get a path that is no resource, such as /metrics.
func MayGet(client *CoreClient, path string) scrape.Review {
	return func(ctx context.Context, token string) (scrape.Access, error) {
		who, err := client.TokenReviews().Create(ctx,
			&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
		if err != nil {
			return scrape.Unknown, fmt.Errorf("review a token: %w", err)
		}
		if !who.Status.Authenticated {
			return scrape.Unknown, nil
		}
		user := who.Status.User
		extra := make(map[string]authorizationv1.ExtraValue, len(user.Extra))
		for k, v := range user.Extra {
			extra[k] = authorizationv1.ExtraValue(v)
		}
		may, err := client.SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{
				User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
				NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: path, Verb: "get"},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			return scrape.Unknown, fmt.Errorf("review the access of %s: %w", user.Username, err)
		}
		if !may.Status.Allowed {
			return scrape.Forbidden, nil
		}
		return scrape.Allowed, nil
	}
}
