// SPDX-License-Identifier: GPL-2.0-only
/*
 * Guest driver of the lifecycle device (registers: lifecycle_regs.h, protocol: docs/lifecycle-device.md).
 *
 * Theory of operation. A machine has at most one such device, described on the command line (x86) or in the device
 * tree (arm64). The driver binds while the kernel starts and stays until the end; it then serves four customers:
 *
 * - /dev/supermachine: write is one event to the host, read and poll are what the host has told since. Every open file
 *   has its own set of unread bits, so two readers do not steal from each other.
 * - the interrupt: takes the status bits, acknowledges exactly those, acts on them, hands them to every open file. The
 *   device raises an edge whenever a bit becomes set, so a bit that arrives in between is not lost.
 * - panics: text into the window, then the event, before any other notifier can get stuck.
 * - power: power-off and restart end in one register write. Halt is treated as power-off, since nobody can press a
 *   button. Should the host not act, the kernel's ordinary ways follow.
 *
 * Locking: `lock` (interrupts off) pairs argument and text with their doorbell and guards the list of open files. A
 * panicking CPU takes it only if it is free: its holder may be one of the CPUs just stopped.
 *
 * Restored. No user code of a clone may run with its parent's random numbers or clock. The host raises the interrupt
 * before the first vCPU runs; it is bound to CPU 0, and so is its thread, which runs at a real-time priority: CPU 0 comes
 * back to user code only after both. The interrupt itself mixes generation and seed into the random number generator
 * (the kernel's path for forked machines), the thread steps the wall clock. The other CPUs are held back all the while:
 * parked here, or not yet started by the host, which waits for SM_LC_RENEWED. Both end where the timekeeper has taken the
 * new time and before do_settimeofday64() waits for the other CPUs: in the timekeeper's own notifier.
 *
 * Park. Every CPU but the first is asked by an asynchronous call to spin in it, interrupts off, until `released`. A
 * call that arrives late finds `released` set and leaves, without a word to the host, which may be waiting for the
 * answer to another wish. So nobody waits for CPUs which cannot answer. The first CPU stays in the thread until it is
 * told to go on and has released the others, with interrupts on and soft ones off: anything else that ran there might
 * wait for an answer, or a lock, of a parked CPU, without ever giving the thread its turn again. They come on where the
 * others are let go, since do_settimeofday64() may sleep after that. A machine may be saved at any point of this, and
 * its clone comes to hear that it is restored, never that it may unpark: so it forgets a wish that its thread has not
 * seen, and every wait ends with that news, also the one for CPUs that have been released, which the host may hold back
 * until this one has done its part.
 *
 * Limits: one device; a record is 16 bytes, a notice 24, a text SM_LC_TEXT_SIZE; nothing a program writes is kept. The
 * device node is root's.
 */
#define pr_fmt(fmt) "supermachine: " fmt

#include <linux/atomic.h>
#include <linux/bottom_half.h>
#include <linux/cpumask.h>
#include <linux/fs.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/io-64-nonatomic-lo-hi.h>
#include <linux/kernel.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/mod_devicetable.h>
#include <linux/moduleparam.h>
#include <linux/panic_notifier.h>
#include <linux/platform_device.h>
#include <linux/poll.h>
#include <linux/preempt.h>
#include <linux/pvclock_gtod.h>
#include <linux/random.h>
#include <linux/reboot.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>
#include <linux/wait.h>
#ifdef CONFIG_X86
#include <asm/reboot.h>
#endif

#include "lifecycle_abi.h"
#include "lifecycle_regs.h"

struct sm_lifecycle {
    void __iomem *regs;          /* NULL: no device */
    u32 known;                   /* SM_LC_INT_* bits that the device's features make it use */
    spinlock_t lock;
    struct list_head files;      /* of struct sm_file; guarded by lock */
    wait_queue_head_t wait;
    atomic_t todo;               /* SM_LC_INT_* bits, from the interrupt to its thread */
    u64 generation[2];           /* the last one seen; the interrupt's */
    u64 told[2];                 /* the one that readers get; guarded by lock */
    struct task_struct *stepper; /* the thread, while it sets the clock */
    bool released;               /* parked CPUs may go */
    atomic_t parked;             /* how many are */
};

static DEFINE_PER_CPU(call_single_data_t, sm_park_call);

struct sm_file {
    struct list_head node;
    u32 pending; /* SM_LC_INT_*; guarded by lock */
};

static struct sm_lifecycle sm_device;

/* The window takes any width; whole words mean fewer exits than bytes. The tail is padded with zeros. */
static void sm_put_text(struct sm_lifecycle *lc, const char *text, size_t len)
{
    size_t at;

    BUILD_BUG_ON(SM_LC_TEXT_SIZE % sizeof(u64));
    for (at = 0; at < len; at += sizeof(u64)) {
        u64 word = 0;

        memcpy(&word, text + at, min(len - at, sizeof(word)));
        writeq(cpu_to_le64(word), lc->regs + SM_LC_TEXT + at);
    }
}

/* Called with the lock held, or in a panic. `text` is NULL or has `arg` bytes, at most SM_LC_TEXT_SIZE. */
static void sm_ring(struct sm_lifecycle *lc, u32 kind, u64 arg, const char *text)
{
    if (text)
        sm_put_text(lc, text, arg);
    writeq(arg, lc->regs + SM_LC_EVENT_ARG);
    writel(kind, lc->regs + SM_LC_EVENT);
}

/* ---- /dev/supermachine ---- */

static int sm_open(struct inode *inode, struct file *file)
{
    struct sm_file *sf = kzalloc(sizeof(*sf), GFP_KERNEL_ACCOUNT);

    if (!sf)
        return -ENOMEM;
    spin_lock_irq(&sm_device.lock);
    list_add(&sf->node, &sm_device.files);
    spin_unlock_irq(&sm_device.lock);
    file->private_data = sf;
    return stream_open(inode, file);
}

static int sm_close(struct inode *inode, struct file *file)
{
    struct sm_file *sf = file->private_data;

    spin_lock_irq(&sm_device.lock);
    list_del(&sf->node);
    spin_unlock_irq(&sm_device.lock);
    kfree(sf);
    return 0;
}

/* True when there was something to take. */
static bool sm_take_notice(struct sm_file *sf, struct sm_lc_notice *ret)
{
    BUILD_BUG_ON(sizeof(*ret) != 24 || sizeof(ret->generation) != sizeof(sm_device.told));
    *ret = (struct sm_lc_notice){};
    spin_lock_irq(&sm_device.lock);
    ret->bits = sf->pending;
    sf->pending = 0;
    memcpy(ret->generation, sm_device.told, sizeof(ret->generation));
    spin_unlock_irq(&sm_device.lock);
    return ret->bits != 0;
}

static ssize_t sm_read(struct file *file, char __user *buf, size_t count, loff_t *pos)
{
    struct sm_file *sf = file->private_data;
    struct sm_lc_notice notice;
    int err;

    if (count < sizeof(notice))
        return -EINVAL;
    if (!sm_take_notice(sf, &notice)) {
        if (file->f_flags & O_NONBLOCK)
            return -EAGAIN;
        err = wait_event_interruptible(sm_device.wait, sm_take_notice(sf, &notice));
        if (err)
            return err;
    }
    if (copy_to_user(buf, &notice, sizeof(notice))) {
        /* Not delivered, so not taken. */
        spin_lock_irq(&sm_device.lock);
        sf->pending |= notice.bits;
        spin_unlock_irq(&sm_device.lock);
        return -EFAULT;
    }
    return sizeof(notice);
}

static __poll_t sm_poll(struct file *file, poll_table *table)
{
    struct sm_file *sf = file->private_data;

    poll_wait(file, &sm_device.wait, table);
    return EPOLLOUT | EPOLLWRNORM | (READ_ONCE(sf->pending) ? EPOLLIN | EPOLLRDNORM : 0);
}

static ssize_t sm_write(struct file *file, const char __user *buf, size_t count, loff_t *pos)
{
    struct sm_lc_record rec;
    char *text = NULL;

    if (count < sizeof(rec))
        return -EINVAL;
    if (copy_from_user(&rec, buf, sizeof(rec)))
        return -EFAULT;
    if (rec.kind < SM_LC_EV_AGENT_READY || rec.kind > SM_LC_EV_PANIC || rec.reserved)
        return -EINVAL;
    if (rec.kind == SM_LC_EV_PANIC) {
        if (rec.arg > SM_LC_TEXT_SIZE)
            return -EMSGSIZE;
        if (count != sizeof(rec) + rec.arg)
            return -EINVAL;
        text = memdup_user(buf + sizeof(rec), rec.arg);
        if (IS_ERR(text))
            return PTR_ERR(text);
    } else if (count != sizeof(rec)) {
        return -EINVAL;
    }

    spin_lock_irq(&sm_device.lock);
    sm_ring(&sm_device, rec.kind, rec.arg, text);
    spin_unlock_irq(&sm_device.lock);
    kfree(text);
    return count;
}

static const struct file_operations sm_fops = {
    .owner = THIS_MODULE,
    .open = sm_open,
    .release = sm_close,
    .read = sm_read,
    .poll = sm_poll,
    .write = sm_write,
    .llseek = no_llseek,
};

static struct miscdevice sm_misc = {
    .minor = MISC_DYNAMIC_MINOR,
    .name = SM_LC_DEV_NAME,
    .fops = &sm_fops,
    .mode = 0600,
};

/* ---- Parking ---- */

/* On a secondary CPU, interrupts off. */
static void sm_hold(void *info)
{
    struct sm_lifecycle *lc = info;

    if (smp_load_acquire(&lc->released))
        return;
    writel(atomic_inc_return(&lc->parked), lc->regs + SM_LC_PARK_STATE);
    while (!smp_load_acquire(&lc->released))
        cpu_relax();
    atomic_dec(&lc->parked);
}

/* By the interrupt, on this CPU, for the thread's next turn. */
static bool sm_told_to_go_on(struct sm_lifecycle *lc)
{
    return atomic_read(&lc->todo) & (SM_LC_INT_UNPARK | SM_LC_INT_RESTORED);
}

static void sm_park(struct sm_lifecycle *lc)
{
    int cpu;

    /* Those of the time before have been released, and only have to notice. */
    while (atomic_read(&lc->parked) && !sm_told_to_go_on(lc))
        cpu_relax();
    if (sm_told_to_go_on(lc))
        return;
    WRITE_ONCE(lc->released, false);
    for_each_online_cpu(cpu)
    {
        /* EBUSY: the call of an earlier time is still on its way, and will do. */
        if (cpu != 0)
            smp_call_function_single_async(cpu, per_cpu_ptr(&sm_park_call, cpu));
    }
}

static void sm_park_until_told(struct sm_lifecycle *lc)
{
    /* Where CPU 0 can be taken offline the thread may be elsewhere. It can't park its own CPU: the host goes on without. */
    if (smp_processor_id() != 0)
        return;
    sm_park(lc);
    while (!sm_told_to_go_on(lc))
        cpu_relax();
}

static void sm_release(struct sm_lifecycle *lc)
{
    smp_store_release(&lc->released, true);
}

/* ---- Being restored ---- */

static u64 sm_read64(struct sm_lifecycle *lc, unsigned int reg)
{
    return readq(lc->regs + reg);
}

/* In the interrupt. The same generation twice: a machine that was saved and went on running. */
static bool sm_new_identity(struct sm_lifecycle *lc)
{
    u64 words[6] = {sm_read64(lc, SM_LC_GENERATION), sm_read64(lc, SM_LC_GENERATION + 8)};
    unsigned int i;

    if (words[0] == lc->generation[0] && words[1] == lc->generation[1])
        return false;
    memcpy(lc->generation, words, sizeof(lc->generation));
    for (i = 0; i < 4; i++)
        words[2 + i] = sm_read64(lc, SM_LC_SEED + 8 * i);
    add_vmfork_randomness(words, sizeof(words));
    memzero_explicit(words, sizeof(words));
    return true;
}

static void sm_renewed(struct sm_lifecycle *lc)
{
    sm_release(lc);
    writel(1, lc->regs + SM_LC_RENEWED);
}

/* The timekeeper has new values; called under its locks, interrupts off, at every one of its updates, whoever makes it:
 * another CPU, or a tick at a leap second, even one that came in the thread's middle. */
static int sm_timekeeper(struct notifier_block *nb, unsigned long was_set, void *data)
{
    if (was_set && in_task() && READ_ONCE(sm_device.stepper) == current) {
        WRITE_ONCE(sm_device.stepper, NULL);
        sm_renewed(&sm_device);
        _local_bh_enable(); /* those that wait have their turn when the thread enables them the next time */
    }
    return NOTIFY_OK;
}

static struct notifier_block sm_timekeeper_nb = {.notifier_call = sm_timekeeper};

/* Soft interrupts are off before and after, and on from the release of the other CPUs to the end of the call. */
static void sm_step_clock(struct sm_lifecycle *lc)
{
    struct timespec64 now = ns_to_timespec64(sm_read64(lc, SM_LC_WALL_CLOCK));

    WRITE_ONCE(lc->stepper, current);
    if (do_settimeofday64(&now))
        pr_warn("the host's clock says %lld s, which can't be set\n", (long long)now.tv_sec);
    if (READ_ONCE(lc->stepper)) { /* refused before the timekeeper saw it */
        WRITE_ONCE(lc->stepper, NULL);
        sm_renewed(lc);
    } else {
        local_bh_disable();
    }
}

/* ---- What the host says ---- */

static irqreturn_t sm_interrupt(int irq, void *data)
{
    struct sm_lifecycle *lc = data;
    u32 bits = readl(lc->regs + SM_LC_INT_STATUS);

    if (!bits)
        return IRQ_NONE;
    writel(bits, lc->regs + SM_LC_INT_ACK);
    bits &= lc->known;
    if ((bits & SM_LC_INT_RESTORED) && !sm_new_identity(lc))
        bits &= ~SM_LC_INT_RESTORED;
    if (bits & SM_LC_INT_RESTORED)
        atomic_andnot(SM_LC_INT_PARK, &lc->todo); /* the parent's */
    atomic_or(bits, &lc->todo);
    return IRQ_WAKE_THREAD;
}

static irqreturn_t sm_act(int irq, void *data)
{
    struct sm_lifecycle *lc = data;
    struct sm_file *sf;
    u32 now, bits = 0;

    local_bh_disable(); /* see Park above */
    do {
        now = atomic_xchg(&lc->todo, 0);
        bits |= now;
        if (now & SM_LC_INT_RESTORED)
            sm_step_clock(lc);
        if (now & SM_LC_INT_UNPARK)
            sm_release(lc);
        else if (now & SM_LC_INT_PARK)
            sm_park_until_told(lc);
    } while ((now & (SM_LC_INT_PARK | SM_LC_INT_UNPARK)) == SM_LC_INT_PARK);
    local_bh_enable();

    spin_lock_irq(&lc->lock);
    /* Whole: the interrupt, which writes it, comes to this CPU only. It takes no lock, since a CPU that is not yet running
     * again may hold one. */
    memcpy(lc->told, lc->generation, sizeof(lc->told));
    list_for_each_entry(sf, &lc->files, node)
    {
        WRITE_ONCE(sf->pending, sf->pending | bits);
    }
    spin_unlock_irq(&lc->lock);
    wake_up_interruptible(&lc->wait);
    return IRQ_HANDLED;
}

/* ---- The machine's end ---- */

static int sm_panic(struct notifier_block *nb, unsigned long action, void *data)
{
    const char *text = data ? data : "";
    unsigned long flags;
    bool locked = spin_trylock_irqsave(&sm_device.lock, flags);

    sm_ring(&sm_device, SM_LC_EV_PANIC, strnlen(text, SM_LC_TEXT_SIZE), text);
    if (locked)
        spin_unlock_irqrestore(&sm_device.lock, flags);
    return NOTIFY_DONE;
}

static struct notifier_block sm_panic_nb = {.notifier_call = sm_panic, .priority = INT_MAX};

static int sm_power_off(struct sys_off_data *data)
{
    writel(SM_LC_POWER_OFF, sm_device.regs + SM_LC_POWER);
    return NOTIFY_DONE;
}

static int sm_halt(struct notifier_block *nb, unsigned long action, void *data)
{
    if (action == SYS_HALT)
        writel(SM_LC_POWER_OFF, sm_device.regs + SM_LC_POWER);
    return NOTIFY_DONE;
}

/* Last of its chain: whoever wants to do something before the end has done it. */
static struct notifier_block sm_halt_nb = {.notifier_call = sm_halt, .priority = INT_MIN};

#ifdef CONFIG_X86
/* x86 asks no restart handlers: it goes from restart, and from a panic, straight to this function pointer. */
static void (*sm_next_emergency_restart)(void) __ro_after_init;

static void sm_emergency_restart(void)
{
    if (sm_device.regs)
        writel(SM_LC_POWER_RESET, sm_device.regs + SM_LC_POWER);
    sm_next_emergency_restart();
}

static int __init sm_hook_restart(struct device *dev)
{
    sm_next_emergency_restart = machine_ops.emergency_restart;
    machine_ops.emergency_restart = sm_emergency_restart;
    return 0;
}
#else
static int sm_restart(struct sys_off_data *data)
{
    writel(SM_LC_POWER_RESET, sm_device.regs + SM_LC_POWER);
    return NOTIFY_DONE;
}

static int __init sm_hook_restart(struct device *dev)
{
    return devm_register_sys_off_handler(dev, SYS_OFF_MODE_RESTART, SYS_OFF_PRIO_FIRMWARE, sm_restart, NULL);
}
#endif

/* ---- Finding the device ---- */

static int __init sm_check(struct device *dev, void __iomem *regs)
{
    u32 magic = readl(regs + SM_LC_MAGIC);
    u32 version = readl(regs + SM_LC_VERSION);
    u32 features = readl(regs + SM_LC_FEATURES);

    if (magic != SM_LC_MAGIC_VALUE || version != SM_LC_VERSION_VALUE || !(features & SM_LC_F_EVENTS)) {
        dev_err(dev, "no lifecycle device of version %u here: magic %#x, version %u, features %#x\n",
                SM_LC_VERSION_VALUE, magic, version, features);
        return -ENODEV;
    }
    return 0;
}

static u32 __init sm_known_bits(u32 features)
{
    return (features & SM_LC_F_RESTORE ? SM_LC_INT_RESTORED : 0) |
           (features & SM_LC_F_PARK ? SM_LC_INT_PARK | SM_LC_INT_UNPARK : 0);
}

static int __init sm_probe(struct platform_device *pdev)
{
    struct sm_lifecycle *lc = &sm_device;
    struct device *dev = &pdev->dev;
    struct resource *res;
    void __iomem *regs;
    int irq, err, cpu;

    if (lc->regs)
        return dev_err_probe(dev, -EBUSY, "a machine has one lifecycle device\n");
    regs = devm_platform_get_and_ioremap_resource(pdev, 0, &res);
    if (IS_ERR(regs))
        return PTR_ERR(regs);
    if (resource_size(res) != SM_LC_PAGE_SIZE)
        return dev_err_probe(dev, -EINVAL, "%pR is not one page of %#x bytes\n", res, SM_LC_PAGE_SIZE);
    err = sm_check(dev, regs);
    if (err)
        return err;

    spin_lock_init(&lc->lock);
    INIT_LIST_HEAD(&lc->files);
    init_waitqueue_head(&lc->wait);
    lc->known = sm_known_bits(readl(regs + SM_LC_FEATURES));
    irq = platform_get_irq(pdev, 0);
    if (irq < 0)
        return irq;
    for_each_possible_cpu(cpu)
    {
        INIT_CSD(per_cpu_ptr(&sm_park_call, cpu), sm_hold, lc);
    }
    lc->regs = regs;
    err = devm_request_threaded_irq(dev, irq, sm_interrupt, sm_act, IRQF_NOBALANCING, SM_LC_DEV_NAME, lc);
    if (!err && num_possible_cpus() > 1)
        err = irq_set_affinity(irq, cpumask_of(0));
    if (!err && (lc->known & SM_LC_INT_RESTORED))
        err = pvclock_gtod_register_notifier(&sm_timekeeper_nb);
    if (!err)
        err = devm_register_sys_off_handler(dev, SYS_OFF_MODE_POWER_OFF, SYS_OFF_PRIO_FIRMWARE, sm_power_off, NULL);
    if (!err)
        err = sm_hook_restart(dev);
    if (!err)
        err = misc_register(&sm_misc);
    if (err) {
        lc->regs = NULL;
        return err;
    }
    atomic_notifier_chain_register(&panic_notifier_list, &sm_panic_nb);
    register_reboot_notifier(&sm_halt_nb);
    return 0;
}

static const struct of_device_id sm_of_match[] = {{.compatible = "supermachine,lifecycle"}, {}};

static struct platform_driver sm_driver = {
    .driver = {.name = SM_LC_DEV_NAME, .of_match_table = sm_of_match},
};
builtin_platform_driver_probe(sm_driver, sm_probe);

/* supermachine.device=<size>@<address>:<irq>, as virtio_mmio.device= has it. */
static int __init sm_param(const char *value, const struct kernel_param *kp)
{
    struct resource res[2] = {};
    unsigned long long base, size;
    unsigned int irq;
    int used = 0;
    char *rest;

    size = memparse(value, &rest);
    if (sscanf(rest, "@%lli:%u%n", (long long *)&base, &irq, &used) != 2 || rest[used] || !irq || irq > INT_MAX ||
        size != SM_LC_PAGE_SIZE || base % SM_LC_PAGE_SIZE || base > PHYS_ADDR_MAX - size) {
        pr_err("device=%s is not 4K@<page-aligned address>:<irq>\n", value);
        return -EINVAL;
    }
    res[0] = (struct resource)DEFINE_RES_MEM(base, size);
    res[1] = (struct resource)DEFINE_RES_IRQ(irq);
    return PTR_ERR_OR_ZERO(
        platform_device_register_resndata(NULL, SM_LC_DEV_NAME, PLATFORM_DEVID_NONE, res, ARRAY_SIZE(res), NULL, 0));
}

static const struct kernel_param_ops sm_param_ops = {.set = sm_param};
device_param_cb(device, &sm_param_ops, NULL, 0);
