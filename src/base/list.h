/* SPDX-License-Identifier: Apache-2.0 */
/* Intrusive doubly linked list: the node lives in its owner's struct; the list allocates nothing. */
#ifndef SM_BASE_LIST_H
#define SM_BASE_LIST_H

#include <stdbool.h>

#include "base/checked.h"

/* A head points at itself when empty; a node that is on no list must not be removed. */
struct list {
    struct list *next, *prev;
};

static inline void list_init(struct list *head)
{
    head->next = head->prev = head;
}

static inline bool list_empty(const struct list *head)
{
    return head->next == head;
}

static inline void list_push_back(struct list *head, struct list *node)
{
    node->prev = head->prev;
    node->next = head;
    head->prev->next = node;
    head->prev = node;
}

static inline void list_remove(struct list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    list_init(node);
}

#define LIST_ENTRY(node, type, member) CONTAINER_OF(node, type, member)

/* The current node may be removed from inside the loop. */
#define LIST_FOREACH_SAFE(head, it, tmp)                                                                               \
    for (struct list *it = (head)->next, *tmp = it->next; it != (head); it = tmp, tmp = it->next)

#endif
